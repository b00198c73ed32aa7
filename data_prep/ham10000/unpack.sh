#!/bin/sh
# Unpack the archives of HAM10000 (.zip as published, or .tar) into a folder that the preparation takes as --source.
# Usage: sh unpack.sh FOLDER_WITH_ARCHIVES TARGET_FOLDER
set -eu

if [ $# -ne 2 ]; then
    echo "usage: sh unpack.sh FOLDER_WITH_ARCHIVES TARGET_FOLDER" >&2
    exit 2
fi
archives=$1
target=$2
found=0
mkdir -p "$target"
for file in "$archives"/*.tar "$archives"/*.zip; do
    [ -f "$file" ] || continue
    name=$(basename "$file")
    case "$name" in
        ISIC2018_Task3_Test*) continue ;; # no part of the table, and so no part of the study
        HAM10000_images_part_*.zip) folder="$target/${name%.zip}" ;; # published without a folder inside
        *) folder="$target" ;;
    esac
    mkdir -p "$folder"
    case "$name" in
        *.tar) tar -x -f "$file" -C "$folder" --no-same-owner --no-same-permissions ;;
        *.zip) unzip -q -o "$file" -d "$folder" ;;
    esac
    found=$((found + 1))
done
if [ "$found" -eq 0 ]; then
    echo "error: $archives: holds no .tar or .zip." >&2
    exit 3
fi
for table in "$archives"/HAM10000_metadata "$archives"/HAM10000_metadata.csv "$archives"/HAM10000_metadata.tab; do
    [ ! -f "$table" ] || cp "$table" "$target/"
done
echo "$found archives unpacked into $target"
