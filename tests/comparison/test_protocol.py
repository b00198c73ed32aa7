"""The comparison file: its defaults, and one sentence for each way in which it can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_med.comparison.checks import open_bundle
from mtl_med.comparison.protocol import Protocol, parse_protocol, read_protocol
from mtl_med.comparison.settings import Bundle, differences, hash_of, settings_of
from mtl_med.errors import UsageError
from mtl_med.files import shipped

SHIPPED = sorted(shipped("bundles").glob("*/comparisons/*.json"))


def opened(path: Path) -> tuple[Protocol, Bundle]:
    protocol = read_protocol(path)
    return protocol, open_bundle(protocol)


class TestDefaults:
    def test_one_table_of_everything_against_stl(self, write) -> None:
        protocol, _ = opened(write())
        (group,) = protocol.groups
        assert (group.title, group.baseline, group.rows) == ("A small comparison", "stl", ("stl", "ctan"))
        assert group.metrics == ("Dice", "dose score")
        assert protocol.metric("dose score").structures is None

    def test_without_stl_the_first_row_is_the_baseline(self, write, fields) -> None:
        del fields["rows"]["stl"]
        fields["rows"]["hps"] = {"overrides": {"method": "hps"}}
        assert opened(write())[0].groups[0].baseline == "ctan"

    def test_direction_and_unit_follow_from_the_metric(self, write) -> None:
        (column,) = opened(write(metrics=[{"name": "dose", "task": "dose", "metric": "dose_score"}]))[0].metrics
        assert (column.higher_is_better, column.unit) == (False, "Gy")

    def test_a_score_that_rewards_a_miss_is_refused(self, write) -> None:
        with pytest.raises(UsageError, match="hd95 has no value where a structure was missed"):
            opened(write(metrics=[{"name": "HD95", "task": "oar", "metric": "hd95"}]))

    def test_seeds_are_outermost(self, write, fields) -> None:
        fields["rows"]["ctan"]["seeds"] = [1, 7]
        order = [(row.name, seed) for row, seed in opened(write())[0].order()]
        assert order == [("stl", 0), ("stl", 1), ("ctan", 1), ("ctan", 7)]

    def test_null_is_as_good_as_absent(self, write, fields) -> None:
        fields["rows"]["ctan"]["seeds"] = None
        assert opened(write(groups=None, configs=None))[0].row("ctan").seeds == (0, 1)


def at(*path: Any, value: Any) -> Callable[[dict], None]:
    """A change of one value."""

    def change(fields: dict) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = value

    return change


def group(**changes: Any) -> Callable[[dict], None]:
    return at("groups", value=[{"title": "T", "baseline": "stl", "rows": ["stl", "ctan"]} | changes])


OTHER_METHOD = {"overrides": {"method": "mtan"}}
FAULTS: dict[str, tuple[Callable[[dict], Any], str]] = {
    "no-object": (at("rows", value=[]), "small.json: rows: is [], expected an object."),
    "schema": (at("schema", value="mtl_med/comparison/2"), "schema is 'mtl_med/comparison/2', expected 'mtl_med/"),
    "unknown-key": (at("sedes", value=[0]), "small.json: unknown key 'sedes'. Did you mean seeds"),
    "missing-key": (lambda fields: fields.pop("metrics"), "small.json: 'metrics' is missing. Add it."),
    "misnamed-key": (
        lambda fields: fields.update(groups=[{"title": "T", "baselin": "stl", "rows": []}]),
        "small.json: groups[0]: unknown key 'baselin'. Did you mean baseline?",
    ),
    "name": (at("name", value="a b"), "small.json: name: 'a b' is no safe name. Write 'a_b'."),
    "title": (at("title", value="a | b"), "small.json: title: 'a | b' cannot stand in a table."),
    "seeds-type": (at("seeds", value=3), "small.json: seeds: is 3, expected a list."),
    "seed-type": (at("seeds", value=[0, "1"]), 'small.json: seeds: is "1", expected a whole number.'),
    "seed-true": (at("seeds", value=[True]), "small.json: seeds: is true, expected a whole number."),
    "seed-negative": (at("seeds", value=[-1]), "small.json: seeds: seed -1 is negative."),
    "seeds-twice": (at("seeds", value=[0, 1, 0]), "small.json: seeds: seed 0 stands there twice."),
    "no-seed": (at("rows", "ctan", "seeds", value=[]), "small.json: rows.ctan.seeds: there is no seed."),
    "no-row": (at("rows", value={}), "small.json: rows: there is no row. Name at least one."),
    "row-key": (at("rows", "ctan", "override", value={}), "rows.ctan: unknown key 'override'. Did you mean overrides?"),
    "row-type": (at("rows", "ctan", value="ctan"), 'small.json: rows.ctan: is "ctan", expected an object.'),
    "rows-alike": (at("rows", "CTAN", value=OTHER_METHOD), "rows: rows 'ctan' and 'CTAN' would share a folder."),
    "same-runs": (at("rows", "ctan", "overrides", value={"method": "stl"}), "would be the same runs as 'stl'."),
    "no-metric": (at("metrics", value=[]), "small.json: metrics: there is no metric."),
    "metric": (at("metrics", 0, "metric", value="dise"), "metrics[0]: unknown metric 'dise'. Did you mean dice?"),
    "metric-direction": (at("metrics", 0, "higher_is_better", value=False), "dice is better when it is higher."),
    "metric-unit": (at("metrics", 1, "unit", value="cGy"), "dose_score has the unit 'Gy', not 'cGy'."),
    "metric-twice": (at("metrics", 1, "name", value="Dice"), "two metrics are called 'Dice'."),
    "metric-of-kind": (at("metrics", 0, "metric", value="dose_score"), "dose_score is better when it is lower."),
    "metric-of-task": (at("metrics", 1, "task", value="oar"), "metric 'dose score': a segmentation has no dose_score."),
    "no-task": (at("metrics", 0, "task", value="oars"), "this row has no task 'oars'. Did you mean oar"),
    "structure": (at("metrics", 0, "structures", value=["C"]), "task 'oar' has no structure 'C'. Known: A, B."),
    "structures-empty": (at("metrics", 0, "structures", value=[]), "metrics[0].structures: names none, or one twice."),
    "baseline": (group(baseline="slt"), "groups[0]: the baseline 'slt' is none of its rows. Did you mean stl?"),
    "baseline-outside": (group(rows=["ctan"]), "groups[0]: the baseline 'stl' is none of its rows. Known: ctan."),
    "group-row": (group(rows=["stl", "ctna"]), "groups[0].rows: there is no row 'ctna'. Did you mean ctan?"),
    "group-metric": (group(metrics=["Dise"]), "groups[0]: there is no metric 'Dise'. Did you mean Dice?"),
    "bundle": (at("bundle", value="openkbp_dose"), "bundle: there is no bundle 'openkbp_dose'. Did you mean openkbp_"),
    "config": (
        at("configs", value=["adm.json"]),
        "bundle: the bundle has no config 'adm.json'. Did you mean adam.json",
    ),
    "override": (
        at("overrides", value={"epoch": 3}),
        "overrides: the config has no 'epoch' to override. Did you mean epo",
    ),
    "override-below": (
        at("rows", "ctan", "overrides", value={"train#datast": 1}),
        "rows.ctan: the config has no 'train#datast' to override. Did you mean dataset?",
    ),
    "override-half": (
        at("rows", "ctan", "overrides", value={"tasks#dose": {}}),
        "rows.ctan: the config has no 'tasks#dose' to override. Check the id, or override 'tasks' as a whole.",
    ),
    "minutes": (
        at("overrides", "minutes", value=10),
        "a budget in minutes cannot be reproduced. Give the length of the",
    ),
    "epochs": (at("overrides", "epochs", value=None), "rows.stl: epochs is null. Give the length of the runs in whole"),
    "own": (at("rows", "ctan", "overrides", "seed", value=1), "rows.ctan: 'seed' is set by the comparison itself."),
    "expression": (at("overrides", "weighting", value="$__import__('os')"), "weighting: '$__import__('os')' is an exp"),
    "expression-deep": (at("overrides", "network_options", value={"a": ["@epochs"]}), "'@epochs' is an expression."),
    "target": (at("overrides", "network_options", value={"_target_": "os.remove"}), "'_target_' is no value."),
    "target-id": (
        at("overrides", "train#dataset#_target_", value="os.remove"),
        "'train#dataset#_target_' is no value.",
    ),
    "tasks": (
        at("overrides", "tasks", value={"oar": {"kind": "segmentaton"}}),
        "unknown kind 'segmentaton' of task 'oar'",
    ),
    "tasks-type": (at("overrides", "tasks", value={"oar": 3}), "rows.stl: tasks.oar: is 3, expected an object."),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_sentence(fields, write, name: str) -> None:
    change, sentence = FAULTS[name]
    change(fields)
    with pytest.raises(UsageError) as caught:
        opened(write())
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '{"name": "a",\n "seeds": [0, 1}',
            "is not valid JSON: Expecting ',' delimiter in line 2, column 16. Mend it.",
        ),
        ("", "is not valid JSON: Expecting value in line 1, column 1. Mend it."),
        ("[" * 100_000, "is nested too deeply. Mend it."),
        ('{"rows": {"a": 1, "a": 2}}', "the key 'a' stands twice in one object. Rename one of them."),
        ('{"overrides": {"learning_rate": NaN}}', "holds the value NaN, which is no JSON."),
        ("[]", "is [], expected an object."),
    ],
    ids=["comma", "empty", "deep", "twice", "nan", "list"],
)
def test_broken_json_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_protocol(path)
    assert sentence in str(caught.value)
    assert "broken.json: " in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.json: cannot be read: No such file or directory. Check the path."):
        read_protocol(tmp_path / "none.json")


class TestSettings:
    def test_rows_go_before_common_overrides_and_those_before_overlays(self, write, fields) -> None:
        fields["overrides"]["inputs"] = "ct+ptv"
        fields["rows"]["ctan"]["overrides"]["inputs"] = "ct"
        protocol, bundle = opened(write(configs=["adam.json"]))
        found = {row.name: settings_of(protocol, row, 3, bundle)["train"] for row in protocol.rows}
        assert (found["stl"]["inputs"], found["ctan"]["inputs"]) == ("ct+ptv", "ct")
        assert {(each["weighting"], each["seed"], each["epochs"]) for each in found.values()} == {("equal", 3, 3)}

    def test_ids_reach_into_the_config(self, write, fields) -> None:
        fields["overrides"] |= {"train#dataset#rate": 0.5, "train::handlers::0::every": 2}
        protocol, bundle = opened(write())
        train = settings_of(protocol, protocol.rows[0], 0, bundle)["train"]["train"]
        assert train == {
            "dataset": {"_target_": "x.Dataset", "rate": 0.5},
            "handlers": [{"_target_": "x.Handler", "every": 2}],
        }
        assert bundle.configs[0]["train"]["dataset"]["rate"] == 1

    def test_hash_depends_on_what_matters_alone(self, write, fields) -> None:
        def hashed(**changes: Any) -> str:
            protocol, bundle = opened(write(**changes))
            return hash_of(settings_of(protocol, protocol.row("ctan"), 0, bundle))

        first = hashed()
        assert hashed(title="Another", seeds=[0]) == first
        assert hashed(overrides={"inputs": "ct", "epochs": 3}) == first, "written out or left at its default"
        assert hashed(overrides={"epochs": 4}) != first
        assert hashed(configs=["adam.json"]) != first

    def test_differences_are_named(self, write) -> None:
        protocol, bundle = opened(write())
        one, other = (settings_of(protocol, row, 0, bundle) for row in protocol.rows)
        assert differences(one, other) == ['method was "stl", now "ctan"']
        assert differences(one, one) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
class TestShipped:
    def test_fits_its_bundle(self, path: Path) -> None:
        from mtl_med.loading.datalist import check_inputs
        from mtl_med.networks import METHODS
        from mtl_med.tasks import as_tasks
        from mtl_med.training.weighting import WEIGHTINGS

        protocol = read_protocol(path)
        bundle = open_bundle(protocol)
        assert all(settings_of(protocol, row, 0, bundle)["train"]["method"] in METHODS for row in protocol.rows)
        assert (protocol.name, bundle.root) == (path.stem, path.parent.parent)
        for row in protocol.rows:
            train = settings_of(protocol, row, 0, bundle)["train"]
            check_inputs(train["inputs"], as_tasks(train["tasks"]))
            assert train["weighting"] in WEIGHTINGS

    def test_every_row_is_in_a_table(self, path: Path) -> None:
        protocol = read_protocol(path)
        assert {row.name for row in protocol.rows} == {name for group in protocol.groups for name in group.rows}

    def test_is_compared_on_seeds_that_the_baseline_has(self, path: Path) -> None:
        protocol = read_protocol(path)
        for table in protocol.groups:
            for name in table.rows:
                assert set(protocol.row(name).seeds) & set(protocol.row(table.baseline).seeds)

    def test_is_plain_json(self, path: Path) -> None:
        assert json.loads(path.read_text()) == read_protocol(path).source


def test_something_is_shipped() -> None:
    assert {path.stem for path in SHIPPED} >= {"axial", "volume"}


@pytest.mark.parametrize(("path", "right", "wrong"), [("lesion", "px", "mm"), ("axial", "mm", "px")])
def test_surface_dice_is_in_the_unit_that_the_data_have(path: str, right: str, wrong: str) -> None:
    (protocol,) = (read_protocol(item) for item in SHIPPED if item.stem == path)
    first = protocol.source["metrics"][0]
    for unit in (right, wrong):
        score = first | {"name": "surface", "metric": f"surface_dice_2{unit}"}
        groups = [{"title": "a", "baseline": "stl", "rows": ["stl", "hps"], "metrics": ["surface"]}]
        fields = protocol.source | {"metrics": [score], "groups": groups}
        if unit == right:
            open_bundle(parse_protocol(fields, "x.json"))
        else:
            with pytest.raises(UsageError, match=f"a segmentation has no surface_dice_2{unit}"):
                open_bundle(parse_protocol(fields, "x.json"))
