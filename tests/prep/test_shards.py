"""Shards: every case in exactly one, machines that do not disturb each other, a merge that gives what one run gives."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mtl_med.errors import OutputError, UsageError
from mtl_med.files import write_json
from mtl_med.manifest import Case, Manifest
from mtl_med.prep.engine import merge_shards, prepare, prepare_shard
from mtl_med.prep.raw import Source
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.shards import Shard, ShardCase, merge, open_shard, plan_digest, write_shard
from mtl_med.prep.splits import assign_splits

COUNT = 3
GOLDEN = [1, 1, 3, 3, 1, 2, 2, 1, 3, 2, 2, 3]
SHARDS = [Shard(index + 1, COUNT) for index in range(COUNT)]


@pytest.mark.parametrize(("text", "shard"), [("1/1", Shard(1, 1)), (" 2/8 ", Shard(2, 8)), ("10/10", Shard(10, 10))])
def test_a_shard_is_read(text: str, shard: Shard) -> None:
    assert Shard.parse(text) == shard == Shard.parse(str(shard))


@pytest.mark.parametrize(
    "text", ["", "2", "0/4", "5/4", "-1/4", "1/0", "1/4/8", "a/b", "1.0/4", "1 / 4", "9999999/9999999"]
)
def test_what_is_no_shard_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="--shard 2/8"):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_case_is_in_one_shard_and_shards_are_about_equal(count: int) -> None:
    ids = [f"case_{index}" for index in range(2000)]
    held = {case_id: [index for index in range(count) if Shard(index + 1, count).holds(case_id)] for case_id in ids}
    assert all(len(shards) == 1 for shards in held.values())
    sizes = Counter(shards[0] for shards in held.values())
    assert max(sizes.values()) - min(sizes.values()) < 0.3 * 2000 / count


def test_shards_have_their_share_of_every_split() -> None:
    """The split comes from the hash of the id too: a shard must not hold one split alone."""
    sources = [Source(f"case_{index}", "train", Path(), ()) for index in range(2000)]
    splits = assign_splits(sources, {"tune": 0.5})
    for shard in (Shard(1, 2), Shard(2, 2)):
        part = Counter(splits[source.id] for source in shard.select(sources))
        assert 0.4 < part["tune"] / part.total() < 0.6


def test_the_shard_of_a_case_is_the_same_in_every_version() -> None:
    names = [f"case_{index}" for index in range(12)]
    assert [next(k for k in (1, 2, 3) if Shard(k, 3).holds(name)) for name in names] == GOLDEN


def test_a_selection_keeps_the_order() -> None:
    sources = [Source(f"case_{index}", "train", Path(), ()) for index in range(30)]
    parts = [shard.select(sources) for shard in SHARDS]
    assert all(part == sorted(part, key=sources.index) for part in parts)
    assert sorted(item.id for part in parts for item in part) == sorted(item.id for item in sources)


def write_all(study: Path, **changes: dict) -> None:
    """Records of all shards of the tiny study; `changes` of a case's ShardCase by id."""
    cases = list(Manifest.read(study))
    outcomes = {case.id: ShardCase("train", case.split, case.source_hash, converted=case.id != "p1") for case in cases}
    outcomes["p9"] = ShardCase("train", "fit", failure="p9: holds no CT.")
    outcomes |= {case_id: ShardCase("train", **fields) for case_id, fields in changes.items()}
    for shard in SHARDS:
        own = {case_id: item for case_id, item in outcomes.items() if shard.holds(case_id)}
        write_shard(study, shard, "tiny", "plan", own, {"seconds": 1.5})


@pytest.fixture
def study(tiny_study: Path, tmp_path: Path) -> Path:
    """A copy of the tiny study with the records of its shards and without its manifest's twin."""
    shutil.copytree(tiny_study, tmp_path / "study")
    for case in Manifest.read(tmp_path / "study"):
        write_json(case.folder / "quality.json", {"measures": {}, "oddities": [], "account": {}, "unmatched": {}})
    write_all(tmp_path / "study")
    return tmp_path / "study"


def test_a_merge_gives_the_manifest_and_what_became_of_each_case(study: Path) -> None:
    expected = (study / "manifest.json").read_bytes()
    merged = merge(study, "tiny")
    Manifest.build("tiny", study, merged.cases).write()
    assert (study / "manifest.json").read_bytes() == expected
    assert merged.failed == {"p9": "p9: holds no CT."}
    assert merged.converted == ["p0", "p2", "p3", "p4", "p5"] and merged.skipped == ["p1"]
    assert merged.shards == COUNT
    assert {(item.id, item.group) for item in merged.sources(study)} == {(f"p{k}", "train") for k in (*range(6), 9)}


def test_a_merge_without_shards_makes_nothing(tmp_path: Path, recipe: Recipe) -> None:
    for out in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match="holds no shards"):
            merge_shards(recipe, out)
    assert list(tmp_path.iterdir()) == []


def test_records_of_another_plan_count_or_data_set_do_not_merge(study: Path) -> None:
    with pytest.raises(UsageError, match="is of 'tiny', not of 'openkbp'"):
        merge(study, "openkbp")
    write_shard(study, Shard(2, COUNT), "tiny", "another plan", {}, {})
    with pytest.raises(UsageError, match=r"shards 1/3 and 2/3 saw different sources"):
        merge(study, "tiny")
    write_shard(study, Shard(2, 4), "tiny", "plan", {}, {})
    with pytest.raises(UsageError, match="holds shards of 3 and of 4"):
        merge(study, "tiny")


def test_a_missing_shard_is_named(study: Path) -> None:
    (study / "run-2of3.json").unlink()
    with pytest.raises(UsageError, match="1 of 3 shards are not finished: 2/3"):
        merge(study, "tiny")
    for path in study.glob("run-*of*.json"):
        path.unlink()
    with pytest.raises(UsageError, match="holds no shards.*--shard k/n"):
        merge(study, "tiny")


@pytest.mark.parametrize("damage", ["removed", "other source", "other split", "unreadable", "no volume"])
def test_a_case_that_is_not_as_its_shard_left_it_is_named_with_its_shard(study: Path, damage: str) -> None:
    if damage == "removed":
        shutil.rmtree(study / "cases/p3")
    elif damage == "unreadable":
        (study / "cases/p3/case.json").write_text("{")
    elif damage == "no volume":
        (study / "cases/p3/dose.nii.gz").unlink()
    elif damage == "other source":
        write_all(study, p3={"split": "fit", "source_hash": "other"})
    else:
        write_all(study, p3={"split": "tune"})
    (shard,) = [shard for shard in SHARDS if shard.holds("p3")]
    with pytest.raises(UsageError, match=rf"p3: is not as its shard left it.*--shard {shard} again"):
        merge(study, "tiny")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"cases": []}', '{"cases": {"p0": {"x": 1}}}'),
        '{"dataset": "tiny", "plan": "", "cases": {"p0": {"group": "train", "split": "fit", "x": 1}}}',
        '{"dataset": "tiny", "plan": "", "cases": {"p0": {"group": "train", "split": "fit", "failure": 5}}}',
        '{"dataset": "tiny", "plan": "", "cases": {"p0": {"group": "nobody", "split": "fit", "failure": "x"}}}',
    ],
)
def test_a_damaged_record_is_one_sentence(study: Path, text: str) -> None:
    (study / "run-1of3.json").write_text(text)
    with pytest.raises(UsageError, match=r"run-1of3.json: is (no record|not valid JSON).*Run that shard again"):
        merge(study, "tiny")


def test_a_record_cannot_lead_outside_the_study(study: Path) -> None:
    fields = json.loads((study / "run-1of3.json").read_text())
    fields["cases"] = {"../../outside": {"group": "train", "split": "fit", "source_hash": ""}}
    (study / "run-1of3.json").write_text(json.dumps(fields))
    with pytest.raises(UsageError, match="leads outside"):
        merge(study, "tiny")


def test_the_plan_tells_sources_splits_and_recipe_apart() -> None:
    sources = [Source("a", "train", Path(), ()), Source("b", "test", Path(), ())]
    splits = {"a": "fit", "b": "test"}
    plan = plan_digest("recipe", sources, splits)
    assert plan == plan_digest("recipe", sources[::-1], splits)
    others = [
        plan_digest("other", sources, splits),
        plan_digest("recipe", sources[:1], splits),
        plan_digest("recipe", sources, splits | {"a": "tune"}),
    ]
    assert len({plan, *others}) == 4


def test_a_shard_clears_what_it_left_itself_and_nothing_of_others(tmp_path: Path) -> None:
    out = tmp_path / "study"
    (out / "cases").mkdir(parents=True)
    ids = [f"case-{index}" for index in range(9)]
    for case_id in ids:
        (out / "cases" / f".tmp-{case_id}-ab_12xyz" / "case").mkdir(parents=True)
        (out / "cases" / case_id).mkdir()
        (out / "cases" / case_id / ".tmp-1234abcdcase.json").touch()
    write_shard(out, SHARDS[0], "tiny", "plan", {}, {})
    write_shard(out, SHARDS[1], "tiny", "plan", {}, {})
    with open_shard(out, tmp_path / "raw", SHARDS[0]):
        left = {case_id for case_id in ids if (out / "cases" / f".tmp-{case_id}-ab_12xyz").exists()}
        inner = {case_id for case_id in ids if (out / "cases" / case_id / ".tmp-1234abcdcase.json").exists()}
        assert left == inner == {case_id for case_id in ids if not SHARDS[0].holds(case_id)} != set(ids)
        assert [path.name for path in out.glob("run-*.json")] == ["run-2of3.json"]


def test_shards_run_side_by_side_but_the_same_one_or_a_whole_run_does_not(tmp_path: Path, run_python: Callable) -> None:
    attempts = f"""
from pathlib import Path
from mtl_med.errors import UsageError
from mtl_med.prep.shards import Shard, open_shard
from mtl_med.prep.study import open_study
out, raw = Path({str(tmp_path / "study")!r}), Path({str(tmp_path / "raw")!r})
for start in (open_shard(out, raw, Shard(1, 3)), open_shard(out, raw, Shard(2, 3)), open_study(out, raw, "tiny")):
    try:
        with start:
            print("free")
    except UsageError as error:
        print(error.what)
"""
    busy = "another run is writing this study"
    with open_shard(tmp_path / "study", tmp_path / "raw", SHARDS[0]):
        assert run_python("-c", attempts).stdout.splitlines() == [busy, "free", busy]
    assert run_python("-c", attempts).stdout.splitlines() == ["free"] * 3


def test_a_study_in_the_raw_data_or_in_a_file_s_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="inside the raw data"), open_shard(tmp_path / "raw/out", tmp_path, SHARDS[0]):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(OutputError), open_shard(tmp_path / "file", tmp_path / "raw", SHARDS[0]):
        pass


def files(folder: Path) -> dict[str, bytes]:
    """All files of a study but the records of its runs."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.match("run*.json"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_all_shards_together_are_one_run_byte_for_byte(patient_template: Path, tmp_path: Path, recipe: Recipe) -> None:
    raw = tmp_path / "raw"
    for number in (1, 2, 3, 4):
        shutil.copytree(patient_template, raw / "train-pats" / f"pt_{number}")
    (raw / "train-pats" / "pt_4" / "dose.csv").write_text("damaged")
    whole = prepare(recipe, raw, tmp_path / "whole")
    for shard in (Shard(2, 2), Shard(1, 2)):
        prepare_shard(recipe, raw, tmp_path / "parts", shard)
    merged = merge_shards(recipe, tmp_path / "parts")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert merged.failed == whole.failed and set(merged.failed) == {"pt_4"}
    assert merged.converted == whole.converted
    assert Case.read(tmp_path / "parts/cases/pt_1").split == Case.read(tmp_path / "whole/cases/pt_1").split
