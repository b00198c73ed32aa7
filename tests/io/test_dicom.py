"""The floor of all DICOM readers: what is read, what is refused, and that nothing is allocated for a lie."""

from __future__ import annotations

import io
import logging
import os
import struct
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from mtl_med.errors import CaseError, GeometryError
from mtl_med.io.dicom import (
    number,
    numbers,
    position_ras,
    read_dataset,
    read_header,
    read_header_and_place,
    require,
    row_column_normal,
    spacing_mm,
    stored_pixels,
)

STORED = np.arange(30, dtype=np.uint16).reshape(6, 5) + 1000
MIB = 1 << 20


def peak_mib(function, *arguments) -> float:
    """Most memory that Python and numpy held meanwhile, also when it raises a CaseError."""
    tracemalloc.start()
    try:
        function(*arguments)
    except CaseError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak / MIB


def everything(path: Path) -> np.ndarray:
    return stored_pixels(read_dataset(path), path)


# --- what is read


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda syntax: syntax.name,
)
def test_native_syntaxes_agree(ct_file, syntax: str) -> None:
    path = ct_file(syntax=syntax)
    header = read_header(path)
    assert "PixelData" not in header
    assert number(header, "Rows", path) == 6
    assert header.file_meta.TransferSyntaxUID == syntax
    assert numbers(header, "ImagePositionPatient", path, 3).tolist() == [-10, -20, 30]
    pixels = everything(path)
    assert pixels.dtype == np.uint16
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, STORED[None])


def test_every_value_is_what_pydicom_reads(dicom_rt_data: Path) -> None:
    """pydicom on whole real files is the judge: CT, RTDOSE, RTSTRUCT with its thousands of nested items."""
    for name in ("CT.048.dcm", "RD.dcm", "RS.dcm"):
        path = dicom_rt_data / "eclipse_prostate" / name
        ours, theirs = read_dataset(path), pydicom.dcmread(path)
        assert ours.to_json_dict() == theirs.to_json_dict()
        assert ours.file_meta.to_json_dict() == theirs.file_meta.to_json_dict()


def test_sequences_in_all_their_forms(tmp_path: Path, ct_maker) -> None:
    ds = ct_maker.image(STORED)
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3"
    outer = Dataset()
    outer.ReferencedImageSequence = Sequence([inner, inner])
    for undefined in (False, True):
        outer["ReferencedImageSequence"].is_undefined_length = undefined
        outer.is_undefined_length_sequence_item = inner.is_undefined_length_sequence_item = undefined
        ds.ReferencedStudySequence = Sequence([outer, Dataset()])
        ds["ReferencedStudySequence"].is_undefined_length = undefined
        for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
            ds.file_meta.TransferSyntaxUID = syntax
            found = read_header(ct_maker.save(ds, tmp_path / "s.dcm"))
            assert [len(item) for item in found.ReferencedStudySequence] == [1, 0]
            deep = found.ReferencedStudySequence[0].ReferencedImageSequence[1]
            assert deep.ReferencedSOPInstanceUID == "1.2.3"


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """An explicit little-endian element."""
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<HL", 0, len(value)) if long else struct.pack("<H", len(value))) + value


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


SOP = element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0")
META = bytes(128) + b"DICM" + element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")


def item(value: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


@pytest.mark.parametrize(
    "inside",
    [
        element(0x00081140, b"UN", item(implicit(0x00081155, b"1.2.3\0"))),
        element(0x00081140, b"UN", item(element(0x00081155, b"UI", b"1.2.3\0"))),
        element(0x00081140, b"SQ", item(implicit(0x00081155, b"1.2.3\0"))),
        struct.pack("<HH2sHL", 0x0008, 0x1140, b"UN", 0, 0xFFFFFFFF)
        + item(implicit(0x00081155, b"1.2.3\0"))
        + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0),
        implicit(0x00081140, item(implicit(0x00081155, b"1.2.3\0"))),
    ],
    ids=["UN-implicit", "UN-explicit", "SQ-implicit-items", "UN-undefined", "no-VR"],
)
def test_sequences_as_some_writers_encode_them(tmp_path: Path, inside: bytes) -> None:
    path = tmp_path / "s.dcm"
    path.write_bytes(META + SOP + inside + element(0x00100020, b"LO", b"id"))
    found = read_header(path)
    assert found.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert found.PatientID == "id"


@pytest.mark.parametrize("start", ["no preamble", "no meta", "only DICM"])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_reads_without_preamble(ct_file, syntax: str, start: str) -> None:
    path = ct_file(syntax=syntax)
    data = path.read_bytes()
    if start == "only DICM":
        data = data[128:]
    elif start == "no preamble":
        data = data[132:]
    else:
        meta_length = struct.unpack_from("<L", data, 140)[0]
        data = data[144 + meta_length :]
    path.write_bytes(data)
    np.testing.assert_array_equal(everything(path), STORED[None])


def test_declared_implicit_but_written_explicit(ct_file) -> None:
    path = ct_file()
    explicit, implicit_uid = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"
    path.write_bytes(path.read_bytes().replace(explicit, implicit_uid))
    np.testing.assert_array_equal(everything(path), STORED[None])


def test_zero_padding_behind_the_last_attribute(tmp_path: Path) -> None:
    path = tmp_path / "padded.dcm"
    data = META + SOP + element(0x00100020, b"LO", b"id")
    for padding in (2, 8, 100, 40_000):
        path.write_bytes(data + bytes(padding))
        assert read_dataset(path).PatientID == "id"
    for trailing in (b"\0", b"ab", bytes(3) + b"a"):
        path.write_bytes(data + trailing)
        with pytest.raises(CaseError, match="truncated"):
            read_dataset(path)


def test_large_header_is_read_in_growing_pieces(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(META + SOP + element(0x00091001, b"UN", bytes(200_000)) + element(0x00100020, b"LO", b"id"))
    assert read_header(path).PatientID == "id"


def test_header_stops_before_the_contours(dicom_rt_data: Path) -> None:
    path = dicom_rt_data / "eclipse_prostate" / "RS.dcm"
    header = read_header(path, stop_before="ROIContourSequence")
    assert "StructureSetROISequence" in header
    assert "ROIContourSequence" not in header
    assert "ROIContourSequence" in read_header(path)
    assert peak_mib(lambda: read_header(path, stop_before="StructureSetROISequence")) < 1.1
    with pytest.raises(ValueError, match="Nonsense"):
        read_header(path, stop_before="Nonsense")


def test_place_of_the_pixels(ct_file) -> None:
    path = ct_file()
    _, place = read_header_and_place(path)
    assert place is not None
    assert (place.length, place.there) == (60, 60)
    assert path.read_bytes()[place.offset :] == STORED.tobytes()
    assert read_header_and_place(ct_file(syntax=uid.ExplicitVRBigEndian))[1] is None


# --- pixels


def test_signed_and_narrow_pixels(tmp_path: Path, ct_maker) -> None:
    signed = np.array([[-2048, 2047, -1, 0]], dtype=np.int16)
    for stored in (signed, signed & 0x0FFF):  # unused bits repeat the sign, or are 0
        ds = ct_maker.image(stored, bits=12)
        path = ct_maker.save(ds, tmp_path / "n.dcm")
        np.testing.assert_array_equal(everything(path), signed[None])
    with pytest.raises(CaseError, match="more than the 12 bits"):
        everything(ct_maker.save(ct_maker.image(np.array([[5000]], dtype=np.uint16), bits=12), path))
    with pytest.raises(CaseError, match="more than the 12 bits"):
        everything(ct_maker.save(ct_maker.image(np.array([[0x5801]], dtype=np.int16), bits=12), path))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.int32])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_other_pixel_widths(tmp_path: Path, ct_maker, dtype: type, syntax: str) -> None:
    info = np.iinfo(dtype)
    stored = np.linspace(info.min // 3, info.max // 3, 35).reshape(7, 5).astype(dtype)
    ds = ct_maker.image(stored, syntax=syntax)
    if dtype in (np.uint8, np.int8):
        ds["PixelData"].VR = "OB"
    pixels = everything(ct_maker.save(ds, tmp_path / "w.dcm"))
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels[0], stored)


def test_bytes_in_big_endian_words_are_swapped_back(tmp_path: Path, ct_maker) -> None:
    stored = np.arange(35, dtype=np.uint8).reshape(5, 7)
    ds = ct_maker.image(stored, syntax=uid.ExplicitVRBigEndian)
    ds.PixelData = np.frombuffer(ds.PixelData, dtype=np.uint16).byteswap().tobytes()
    path = ct_maker.save(ds, tmp_path / "b.dcm")
    np.testing.assert_array_equal(everything(path)[0], stored)
    np.testing.assert_array_equal(everything(path)[0], pydicom.dcmread(path).pixel_array)


def test_big_endian_words_of_a_dose(tmp_path: Path, ct_maker) -> None:
    """OW of 32 bits: bytes swapped within 16-bit words (as the standard and dcmtk), or all four (as others)."""
    stored = np.round(4e8 * np.exp(-(np.linspace(-2, 2, 60) ** 2))).astype(np.uint32).reshape(2, 5, 6)
    ds = ct_maker.image(stored, syntax=uid.ExplicitVRBigEndian, NumberOfFrames=2)
    np.testing.assert_array_equal(everything(ct_maker.save(ds, tmp_path / "d.dcm")), stored)
    ds.PixelData = stored.view(np.uint16).byteswap().tobytes()
    np.testing.assert_array_equal(everything(ct_maker.save(ds, tmp_path / "d.dcm")), stored)


def test_run_length_encoding(tmp_path: Path, ct_maker) -> None:
    stored = np.arange(2 * 40 * 30, dtype=np.int16).reshape(2, 40, 30) // 7 - 500
    ds = ct_maker.image(stored, NumberOfFrames=2)
    ds.compress(uid.RLELossless)
    path = ct_maker.save(ds, tmp_path / "rle.dcm")
    np.testing.assert_array_equal(everything(path), stored)


def jpeg2000(stored: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    return stream.getvalue()


def compressed(ct_maker, stored: np.ndarray, frames: list[bytes], syntax: str, path: Path, **attributes) -> Path:
    """A file of compressed frames."""
    ds = ct_maker.image(stored, syntax=syntax, **attributes)
    ds.PixelData = encapsulate(frames, has_bot=attributes.get("NumberOfFrames", 1) > 1)
    ds["PixelData"].is_undefined_length = True
    return ct_maker.save(ds, path)


def test_jpeg_2000(tmp_path: Path, ct_maker) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (2, 33, 40)).astype(np.uint16)
    frames = [jpeg2000(image) for image in stored]
    options = {"bits": 16, "NumberOfFrames": 2}
    path = compressed(ct_maker, stored, frames, uid.JPEG2000Lossless, tmp_path / "j2k.dcm", **options)
    np.testing.assert_array_equal(everything(path), stored)
    # a frame in several fragments is told by the table of offsets
    ds = pydicom.dcmread(path)
    ds.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=True)
    ds["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(everything(ct_maker.save(ds, path)), stored)
    ds.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=False)
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(CaseError, match="6 compressed fragments, from which 2 frames cannot be told"):
        everything(ct_maker.save(ds, path))


def test_jpeg(tmp_path: Path, ct_maker) -> None:
    stored = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (32, 1))
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, "JPEG", quality=95)
    path = compressed(ct_maker, stored, [stream.getvalue()], uid.JPEGBaseline8Bit, tmp_path / "jpeg.dcm")
    assert np.abs(everything(path)[0].astype(int) - stored).max() <= 2


@pytest.mark.parametrize(
    ("syntax", "packages"),
    [
        (uid.JPEGLosslessSV1, "pip install pylibjpeg pylibjpeg-libjpeg"),
        (uid.JPEGLSLossless, "pip install pyjpegls"),
        (uid.HTJ2KLossless, "pip install pylibjpeg pylibjpeg-openjpeg"),
    ],
    ids=lambda value: value.name if isinstance(value, uid.UID) else "",
)
def test_missing_codec_is_named(
    tmp_path: Path, ct_maker, monkeypatch: pytest.MonkeyPatch, syntax: uid.UID, packages: str
) -> None:
    monkeypatch.setattr(pydicom.pixels.get_decoder(syntax), "_available", {})
    path = compressed(ct_maker, STORED, [b"\xff\xd8\xff\xd9"], syntax, tmp_path / "c.dcm")
    with pytest.raises(CaseError, match=packages):
        everything(path)


def test_damaged_streams_leave_no_trace_in_the_log(tmp_path: Path, ct_maker, caplog: pytest.LogCaptureFixture) -> None:
    stream = jpeg2000(STORED)
    path = compressed(ct_maker, STORED, [stream[: len(stream) // 2]], uid.JPEG2000Lossless, tmp_path / "c.dcm")
    with pytest.raises(CaseError, match="cannot be decoded"):
        everything(path)
    assert not caplog.records
    assert logging.getLogger("pydicom.pixels.decoders.base").level == logging.NOTSET


def test_compressed_frame_of_another_size(tmp_path: Path, ct_maker) -> None:
    path = compressed(ct_maker, STORED, [jpeg2000(STORED[:5])], uid.JPEG2000Lossless, tmp_path / "c.dcm")
    with pytest.raises(CaseError, match="no image of 6 x 5 pixels"):
        everything(path)
    ds = ct_maker.image(STORED)
    ds.compress(uid.RLELossless)
    ds.Rows = 3
    with pytest.raises(CaseError, match="cannot be decoded"):
        everything(ct_maker.save(ds, path))


def test_unknown_transfer_syntax(ct_file) -> None:
    path = ct_file()
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0"))
    assert number(read_header(path), "Rows", path) == 6
    with pytest.raises(CaseError, match="transfer syntax"):
        everything(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Rows": None}, "has no Rows"),
        ({"Rows": 0}, "Rows is 0, expected 1 to 65535"),
        ({"Rows": 7}, "truncated: holds 60 bytes of pixels, expected 70"),
        ({"Columns": 4}, "holds 60 bytes of pixels, expected 48"),
        ({"NumberOfFrames": 2}, "truncated: holds 60 bytes of pixels, expected 120"),
        ({"NumberOfFrames": 1_000_000}, "truncated: holds 60 bytes"),
        ({"Rows": 65535, "Columns": 65535}, "more than 2 GiB"),
        ({"SamplesPerPixel": 3}, "no grey image"),
        ({"PhotometricInterpretation": "RGB"}, "no grey image"),
        ({"PhotometricInterpretation": None}, "no grey image"),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, "stores 12 bits"),
        ({"BitsStored": 17}, "stores 17 bits"),
        ({"HighBit": 13}, "up to bit 13"),
        ({"PixelRepresentation": 2}, "PixelRepresentation is 2"),
        ({"PixelRepresentation": None}, "has no PixelRepresentation"),
        ({"PixelData": None}, "has no PixelData"),
    ],
    ids=str,
)
def test_pixels_that_are_not_as_declared(ct_file, change: dict, sentence: str) -> None:
    path = ct_file(**change)
    with pytest.raises(CaseError, match=sentence):
        everything(path)
    assert peak_mib(everything, path) < 1


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_compressed_lies_allocate_nothing(tmp_path: Path, ct_maker, syntax: str) -> None:
    ds = ct_maker.image(STORED, syntax=syntax, Rows=30000, Columns=30000)
    ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + struct.pack(">HHLLLL", 41, 0, 30000, 30000, 0, 0) + bytes(100)])
    ds["PixelData"].is_undefined_length = True
    path = ct_maker.save(ds, tmp_path / "bomb.dcm")
    with pytest.raises(CaseError, match="declares 1 x 30000 x 30000 pixels of 16 bits in"):
        everything(path)
    assert peak_mib(everything, path) < 1


# --- what is refused


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"hello world, this is a text file", "no DICOM"),
        (bytes(128) + b"DICM", "nothing but the beginning"),
        (bytes(128) + b"DIC", "no DICOM"),
        (bytes(5000), "no DICOM"),
        (META, "nothing but the beginning"),
        (META[:-3], "truncated"),
        (META + SOP[:-4], "truncated"),
        (META + SOP + SOP, "holds SOPClassUID twice"),
        (META + SOP + element(0x00100020, b"ZZ", b"id"), "unknown type"),
        (META + SOP + struct.pack("<HHL", 0xFFFE, 0xE00D, 0), "delimiter"),
        (META + SOP + element(0x00081140, b"SQ", b"\0" * 12), "no item"),
        (META + SOP + element(0x00081140, b"SQ", item(SOP)[:-2]) + bytes(100), "do not add up"),
        (META + SOP + element(0x00081140, b"SQ", item(SOP[:-2]) + b"ab"), "do not add up"),
        (META + SOP + struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item(SOP), "truncated"),
        (META + SOP + struct.pack("<HH2sHL", 8, 0x1140, b"UT", 0, 0xFFFFFFFF), "has no length"),
        (META + SOP + struct.pack("<HH2sHL", 8, 0x1140, b"UN", 0, 0xFFFFFFF0), "truncated"),
        (implicit(0x00080005, b"ISO_IR 6") + implicit(0x00080008, b"x " * 20), "no DICOM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "bad.dcm"
    path.write_bytes(data)
    for read in (read_header, read_dataset):
        with pytest.raises(CaseError, match=sentence) as caught:
            read(path)
        assert caught.value.where == str(path)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no such file"):
        read_header(tmp_path / "absent")
    with pytest.raises(CaseError, match="no regular file"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaseError, match="no regular file"):
        read_header(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CaseError, match="cannot be read"):
        read_header(tmp_path / "loop")


def test_deeply_nested_sequences(tmp_path: Path) -> None:
    nested = b""
    for _ in range(5000):
        nested = element(0x00081140, b"SQ", item(nested))
    path = tmp_path / "deep.dcm"
    path.write_bytes(META + SOP + nested)
    with pytest.raises(CaseError, match="32 deep"):
        read_dataset(path)


def test_many_items_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_med.io.dicom_parse._MOST_ELEMENTS", 5000)
    path = tmp_path / "many.dcm"
    path.write_bytes(META + SOP + element(0x00081140, b"SQ", item(b"") * 1000))
    assert len(read_dataset(path).ReferencedImageSequence) == 1000
    path.write_bytes(META + SOP + element(0x00081140, b"SQ", item(b"") * 1300))
    with pytest.raises(CaseError, match="more than 5000 attributes"):
        read_dataset(path)


def test_time_grows_with_the_bytes_only(tmp_path: Path) -> None:
    """Bytes that make pydicom look for a delimiter again and again to the end of the file."""
    path = tmp_path / "slow.dcm"
    lost = struct.pack("<HH2sHL", 0x0009, 0x1010, b"OB", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    open_item = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    for data in (lost * 50_000, open_item * 50_000, (open_item + lost) * 20_000, b"\0" * 10**6 + b"a"):
        path.write_bytes(META + SOP + data)
        began = time.process_time()
        with pytest.raises(CaseError):
            read_dataset(path)
        assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "name", ["CT_small", "MR_small_implicit", "MR_small_RLE", "rtdose_expb", "UN_sequence", "JPEG2000"]
)
def test_files_that_pydicom_ships(name: str) -> None:
    """Files of several vendors, old and odd ones; pydicom is the judge."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / f"{name}.dcm"
    ours, theirs = read_dataset(path), pydicom.dcmread(path)
    assert {element.tag for element in ours} == {element.tag for element in theirs}
    if "PixelData" in theirs:
        np.testing.assert_array_equal(stored_pixels(ours, path).reshape(theirs.pixel_array.shape), theirs.pixel_array)


@pytest.mark.parametrize("cut", ["bomb", "half", "garbage"])
def test_deflated_files_are_bounded(tmp_path: Path, cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_med.io.dicom.MAX_INFLATED_BYTES", 4 * MIB)
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = stream.compress(SOP + element(0x00091001, b"UN", bytes(16 * MIB))) + stream.flush()
    sentence = "inflates to more than 4 MiB"
    if cut == "half":
        stream = zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
        data, sentence = (stream.compress(SOP * 20) + stream.flush())[:500], "no end"
    elif cut == "garbage":
        data, sentence = b"\xff" * 100, "cannot be inflated"
    path = tmp_path / "deflated.dcm"
    path.write_bytes(
        META.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0\0").replace(b"\x14\0", b"\x17\0")
    )
    meta = bytes(128) + b"DICM" + element(0x00020010, b"UI", b"1.2.840.10008.1.2.1.99")
    path.write_bytes(meta + data)
    with pytest.raises(CaseError, match=sentence):
        read_header(path)
    assert peak_mib(read_header, path) < 12


# --- attributes


def test_numbers_are_strict(ct_file) -> None:
    for bad, sentence in [
        ("1\\2", "holds 2 values, expected 3"),
        ("1\\2\\x", "not made of numbers"),
        ("1\\2\\1_0", "not made of numbers"),
        ("1\\2\\", "not made of numbers"),
        ("1\\2\\nan", "not made of numbers"),
        ("1\\2\\0x10", "not made of numbers"),
        ("1\\2\\1e999", "not finite"),
        ("1\\2\\1,5", "not made of numbers"),
    ]:
        path = ct_file()
        data = path.read_bytes()
        old = element(0x00200032, b"DS", b"-10\\-20\\30")
        assert data.count(old) == 1
        value = bad.encode() + b" " * (len(bad) % 2)
        path.write_bytes(data.replace(old, element(0x00200032, b"DS", value)))
        ds = read_header(path)
        with pytest.raises(CaseError, match=sentence) as caught:
            numbers(ds, "ImagePositionPatient", path, 3)
        assert "ImagePositionPatient" in str(caught.value)


def test_numbers_of_all_types(tmp_path: Path) -> None:
    ds = Dataset()
    ds.EventElapsedTimes, ds.ReferencedFrameNumber = ["1.5", "-2e1"], [3, 4]
    ds.Rows, ds.TubeAngle, ds.SimpleFrameList, ds.ExtendedOffsetTable = 7, 0.25, [1, 2], b""
    ds.TagAngleSecondAxis = -3
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.3"
    path = tmp_path / "n.dcm"
    for dataset in (
        ds,
        read_after(ds, path, uid.ExplicitVRBigEndian),
        read_after(ds, path, uid.ImplicitVRLittleEndian),
    ):
        assert numbers(dataset, "EventElapsedTimes", path, 2).tolist() == [1.5, -20]
        assert numbers(dataset, "ReferencedFrameNumber", path).tolist() == [3, 4]
        assert number(dataset, "Rows", path) == 7
        assert number(dataset, "TubeAngle", path) == 0.25
        assert numbers(dataset, "SimpleFrameList", path).tolist() == [1, 2]
        with pytest.raises(CaseError, match="has no Columns"):
            number(dataset, "Columns", path)


def read_after(ds: Dataset, path: Path, syntax: str) -> Dataset:
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.save_as(path, enforce_file_format=True)
    return read_dataset(path)


def test_wrong_length_of_a_binary_number(tmp_path: Path) -> None:
    path = tmp_path / "b.dcm"
    path.write_bytes(META + SOP + element(0x00280010, b"US", b"\1\0\2"))
    with pytest.raises(CaseError, match="Rows is not made of numbers"):
        number(read_header(path), "Rows", path)


def test_require(ct_file) -> None:
    path = ct_file(StudyDate="", AccessionNumber="")
    ds = read_header(path)
    assert require(ds, "Modality", path) == "CT"
    assert list(require(ds, "ImageType", path)) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    for keyword, sentence in [
        ("StudyDate", "is empty"),
        ("FrameOfReferenceUID", ""),
        ("Laterality", "has no Laterality"),
    ]:
        if sentence:
            with pytest.raises(CaseError, match=sentence):
                require(ds, keyword, path)


def test_values_that_break_the_standard_are_not_repeated_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "odd.dcm"
    path.write_bytes(
        META
        + SOP
        + element(0x00080018, b"UI", b"Planted Name")
        + element(0x00100020, b"LO", b"Planted" * 20)
        + element(0x00100030, b"DA", b"not a date")
        + element(0x00280030, b"DS", b"Planted")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = read_header(path)
        assert [ds.SOPInstanceUID, ds.PatientID[:7], ds.PatientBirthDate] == ["Planted Name", "Planted", "not a date"]
        with pytest.raises(CaseError, match="not made of numbers") as caught:
            number(ds, "PixelSpacing", path)
        assert "Planted" not in str(caught.value)
    assert not caplog.records
    assert pydicom.config.settings.reading_validation_mode == pydicom.config.WARN


def test_directions_are_repaired_or_refused(ct_file) -> None:
    path = ct_file()
    ds = Dataset()

    def directions(*values: float) -> np.ndarray:
        ds.ImageOrientationPatient = [f"{value:.9f}" for value in values]
        return row_column_normal(ds, path)

    np.testing.assert_array_equal(directions(1, 0, 0, 0, 1, 0), np.diag([-1.0, -1.0, 1.0]))
    angle = np.radians(30)
    expected = np.array([[-np.cos(angle), -np.sin(angle), 0], [0, 0, -1], [np.sin(angle), -np.cos(angle), 0]])
    np.testing.assert_allclose(directions(np.cos(angle), np.sin(angle), 0, 0, 0, -1), expected, atol=1e-9)
    nearly = directions(1, 4e-4, 0, 4e-4, 0.9998, 0)
    np.testing.assert_allclose(nearly @ nearly.T, np.eye(3), atol=1e-12)
    assert np.abs(nearly - np.diag([-1.0, -1.0, 1.0])).max() < 1e-12  # the error is shared out
    for bad in [(1, 0, 0, 0.002, 1, 0), (1, 0, 0, 0, 1.002, 0), (0, 0, 0, 0, 1, 0), (1, 0, 0, 1, 0, 0)]:
        with pytest.raises(GeometryError, match="ImageOrientationPatient is off"):
            directions(*bad)


@pytest.mark.parametrize("spacing", [("0", "1"), ("1", "-1"), ("1000", "1"), ("1e-9", "1")])
def test_impossible_spacing(spacing: tuple[str, str]) -> None:
    ds = Dataset()
    ds.PixelSpacing = list(spacing)
    with pytest.raises(GeometryError, match="expected 0.01 to 100 mm"):
        spacing_mm(ds, "x.dcm")


def test_positions_in_ras() -> None:
    ds = Dataset()
    ds.ImagePositionPatient, ds.PixelSpacing = ["1.5", "-2", "3"], ["2", "0.5"]
    assert position_ras(ds, "x.dcm").tolist() == [-1.5, 2, 3]
    assert spacing_mm(ds, "x.dcm") == (2, 0.5)
    ds.ImagePositionPatient = ["1.5", "-2", "3e7"]
    with pytest.raises(GeometryError, match="mm away"):
        position_ras(ds, "x.dcm")


# --- any bytes


def test_any_bytes_end_in_a_data_set_or_a_sentence(dicom_rt_data: Path, tmp_path: Path) -> None:
    """Flipped, cut, doubled and shifted bytes of real files, the front of which is hit most."""
    rng = np.random.default_rng(20)
    folder = dicom_rt_data / "eclipse_prostate"
    originals = [(folder / name).read_bytes() for name in ("CT.000.dcm", "RD.dcm", "RS.dcm")]
    originals = [data[:6000] for data in originals]
    path = tmp_path / "mutated.dcm"
    refused = 0
    for turn in range(400):
        data = bytearray(originals[turn % 3])
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(0, len(data)))
            kind = rng.integers(0, 4)
            if kind == 0:
                data[at] = rng.integers(0, 256)
            elif kind == 1:
                del data[at : at + rng.integers(1, 20)]
            elif kind == 2:
                data[at:at] = data[at : at + rng.integers(1, 200)]
            else:
                data[at : at + 4] = rng.bytes(4)
        path.write_bytes(bytes(data))
        for read in (read_header, everything):
            try:
                read(path)
            except CaseError as error:
                refused += 1
                assert str(path) in str(error)
    assert refused > 400


def test_random_bytes_behind_a_good_start(tmp_path: Path) -> None:
    rng = np.random.default_rng(21)
    path = tmp_path / "random.dcm"
    for size in (8, 100, 3000, 200_000):
        for _ in range(20):
            path.write_bytes(META + SOP + rng.bytes(size))
            with pytest.raises(CaseError):
                read_dataset(path)
