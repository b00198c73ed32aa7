"""Names of structures: what the table knows comes out in TG-263's spelling, and nothing else is taken for anything."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest

from mtl_med.errors import UsageError
from mtl_med.files import safe_name
from mtl_med.prep.name_forms import FRENCH_SIDES, SIDES, normal_form, parse_target, split_side
from mtl_med.prep.names import NameTable, assign


@pytest.fixture(scope="module")
def table() -> NameTable:
    return NameTable.load()


def test_the_eclipse_study_is_known(table: NameTable) -> None:
    found = table.match_all([(name, "") for name in ECLIPSE])
    assert {match.original: (match.name, match.kind) for match in found} == ECLIPSE
    assert all(match.matched for match in found)


ECLIPSE = {
    "BODY": ("Body", "external"),
    "Bladder": ("Bladder", "oar"),
    "Femoral Head Lt": ("Femur_Head_L", "oar"),
    "Femoral Head RT": ("Femur_Head_R", "oar"),
    "PTV": ("PTV", "target"),
    "Rectum": ("Rectum", "oar"),
}


@pytest.mark.parametrize(
    ("original", "name"),
    [
        ("Lt Femur", "Femur_Head_L"),
        ("FEMUR_L", "Femur_Head_L"),
        ("FemoralHeadLt", "Femur_Head_L"),
        ("femoral head (left)", "Femur_Head_L"),
        ("Femoral.Head-R", "Femur_Head_R"),
        ("L_Head_Femur", "Femur_Head_L"),  # TG-263's reverse order
        ("Hüftkopf links", "Femur_Head_L"),
        ("HUEFTKOPF RE", "Femur_Head_R"),
        ("Tête fémorale D", "Femur_Head_R"),
        ("tete_fem_gauche", "Femur_Head_L"),
        ("Testa femore sx", "Femur_Head_L"),
        ("cabeza femoral der", "Femur_Head_R"),
        ("Mandible_Bone", "Bone_Mandible"),
        ("mandible", "Bone_Mandible"),
        ("OralCavity", "Cavity_Oral"),
        ("Oral_Cavity", "Cavity_Oral"),
        ("SUBMANDIBULAR_R", "Glnd_Submand_R"),
        ("SubmandGlandL", "Glnd_Submand_L"),
        ("OpticNerve_L", "OpticNrv_L"),
        ("OPTIC_NRV_R", "OpticNrv_R"),
        ("LENS_L", "Lens_L"),
        ("BrachialPlexus_R", "BrachialPlex_R"),
        ("Bowel Bag", "Bag_Bowel"),
        ("Bowel_Bag", "Bag_Bowel"),
        ("penile bulb", "PenileBulb"),
        ("Seminal Vesicles", "SeminalVes"),
        ("PharCon_Sup", "Musc_Constrict_S"),
        ("SPC", "Musc_Constrict_S"),
        ("Pharyngeal Constrictor Inf", "Musc_Constrict_I"),
        ("Cord", "SpinalCord"),
        ("spinal_cord", "SpinalCord"),
        ("Myelon", "SpinalCord"),
        ("Moelle épinière", "SpinalCord"),
        ("Spinalkanal", "SpinalCanal"),
        ("left carotid artery", "A_Carotid_L"),
        ("RightParotid", "Parotid_R"),
        ("Parotide G", "Parotid_L"),
        ("Parotis li.", "Parotid_L"),
        ("Poumon_D", "Lung_R"),
        ("LLL", "Lung_LLL"),
        ("Lungs", "Lungs"),
        ("both kidneys", "Kidneys"),
        ("Rein G", "Kidney_L"),
        ("TemporalLobe_L", "Lobe_Temporal_L"),
        ("lobe temporal d", "Lobe_Temporal_R"),
        ("Vertebrae_L5", "VB_L5"),
        ("VB T1", "VB_T01"),
        ("Neck level II L", "LN_Neck_II_L"),
        ("hypothalamus", "Hypothalmus"),
        ("Colon_Descending", "Colon_Decending"),
        ("Harnblase", "Bladder"),
        ("vessie", "Bladder"),
        ("Chestwall", "Chestwall"),
        ("L Chest wall", "Chestwall_L"),
        ("Outer Contour", "External"),
    ],
)
def test_known_names(table: NameTable, original: str, name: str) -> None:
    found = table.match(original)
    assert (found.name, found.matched, found.original) == (name, True, original)


@pytest.mark.parametrize(
    "original",
    [
        *("Lung~_L", "SpinalCord~", "Lungs^Ex", "_Rectum", "Bladder-CTV", "Lungs-GTV", "PTV+Rectum", "PTV!_5600"),
        *("Parotid_L_NOS", "z_Rectum", "Rectum1", "Rectum copy", "Femoral Head", "Parotid", "Femur L R", "Lung G"),
        *("Avoid", "Ring 70", "CouchSurface", "Dose 76[Gy]", "NOD", "", "   ", "---", "L", "Lt", "左肺L", "Lung左L"),
        *("PTV_ring", "PTV_504", "PTV 70/35", "PTV_2020", "PTV_1965", "PTV 200", "PTV_1.8Gyx25", "PTVopt", "CTV70+60"),
        *("Cord PRV 0.5cm", "PRV", "PRV_70", "Cord_PRV50", "PTV_PRV05"),
    ],
)
def test_nothing_is_guessed(table: NameTable, original: str) -> None:
    found = table.match(original)
    assert (found.matched, found.kind, found.prescription_gy) == (False, "other", None)
    assert safe_name(found.name) == found.name
    assert not table.match(found.name).matched, "not even its safe name says that it is something known"


@pytest.mark.parametrize(
    ("original", "name", "gray"),
    [
        ("PTV", "PTV", None),
        ("PTV70", "PTV_7000", 70.0),
        ("ptv 70", "PTV_7000", 70.0),
        ("PTV_7000", "PTV_7000", 70.0),
        ("PTV 70 Gy", "PTV_7000", 70.0),
        ("PTV_7000cGy", "PTV_7000", 70.0),
        ("PTV 50.4Gy", "PTV_5040", 50.4),
        ("PTV_50p4", "PTV_5040", 50.4),
        ("PTV 50,4 Gy", "PTV_5040", 50.4),
        ("PTV_54.12", "PTV_5412", 54.12),
        ("PTV_7000-05", "PTV_7000-05", 70.0),
        ("PTV 8Gy", "PTV_800", 8.0),
        ("PTV_2000", "PTV_2000", 20.0),
        ("PTV1", "PTV1", None),
        ("PTV_2", "PTV2", None),
        ("PTV1_70", "PTV1_7000", 70.0),
        ("PTVp1_7000", "PTVp1_7000", 70.0),
        ("CTVn", "CTVn", None),
        ("CTVn_L", "CTVn_L", None),
        ("CTV_High", "CTV_High", None),
        ("GTV", "GTV", None),
        ("ITV 60 Gy", "ITV_6000", 60.0),
        ("IGTV", "IGTV", None),
    ],
)
def test_targets(table: NameTable, original: str, name: str, gray: float | None) -> None:
    found = table.match(original, "ORGAN")
    assert (found.name, found.kind, found.prescription_gy, found.matched) == (name, "target", gray, True)


@pytest.mark.parametrize(
    ("original", "name"),
    [
        ("SpinalCord_PRV05", "SpinalCord_PRV05"),
        ("SpinalCord_PRV5", "SpinalCord_PRV05"),
        ("Cord PRV 5mm", "SpinalCord_PRV05"),
        ("Cord 5mm PRV", "SpinalCord_PRV05"),
        ("PRV Cord", "SpinalCord_PRV"),
        ("BRAINSTEM_PRV3", "Brainstem_PRV03"),
        ("Chiasma PRV3mm", "OpticChiasm_PRV3"),  # 16 characters, as in TG-263's own list
        ("LENS_R_PRV", "Lens_PRV_R"),
        ("OpticNerve_L PRV", "OpticNrv_PRV_L"),
        ("OpticNrv_PRV03_L", "OpticNrv_PRV03_L"),
    ],
)
def test_margins(table: NameTable, original: str, name: str) -> None:
    found = table.match(original)
    assert (found.name, found.kind, found.matched) == (name, "other", True)


@pytest.mark.parametrize(
    ("original", "interpreted_type", "name", "kind", "matched"),
    [
        ("Zielvolumen", "PTV", "Zielvolumen", "target", False),
        ("boost vol", "ctv", "boost_vol", "target", False),
        ("PTV_ring", "CONTROL", "PTV_ring", "other", False),
        ("Kontur 1", "EXTERNAL", "External", "external", True),
        ("BODY", "EXTERNAL", "Body", "external", True),
        ("SKIN", "EXTERNAL", "External", "external", True),
        ("SKIN", "ORGAN", "Skin", "oar", True),
        ("Prostate", "CTV", "Prostate", "oar", True),
        ("Couch", "SUPPORT", "Couch", "other", False),
    ],
)
def test_the_type_counts_where_the_name_does_not(
    table: NameTable, original: str, interpreted_type: str, name: str, kind: str, matched: bool
) -> None:
    found = table.match(original, interpreted_type)
    assert (found.name, found.kind, found.matched) == (name, kind, matched)


HOSTILE = [
    *(
        "Rectum",
        "rectum",
        "RECTUM ",
        "Rectum",
        "",
        "",
        " ",
        "../../etc/passwd",
        "..",
        ".",
        "CON",
        "nul.txt",
        "-rf",
        "+1",
    ),
    *(
        "a/b",
        "a\\b",
        "ROI\0",
        "line\nbreak",
        "é" * 70,
        "名前",
        "🙂",
        "x" * 64,
        "x" * 200,
        "x" * 201,
        "=cmd()",
        "Lung~_L",
    ),
    *(
        "Lung_L",
        "Lung L",
        "Lung_L_2",
        "PTV70",
        "PTV 70",
        "PTV!_7000",
        "External",
        "BODY",
        ".hidden",
        "_",
        "PTV70\u200b",
    ),
]


def test_any_names_become_unique_and_safe(table: NameTable) -> None:
    found = table.match_all([(name, "") for name in HOSTILE])
    names = [match.name for match in found]
    assert len(found) == len(HOSTILE)
    assert len({name.lower() for name in names}) == len(names)
    assert all(safe_name(name, 64) == name and not name.startswith(("-", "+")) for name in names), names
    assert [match.original for match in found] == HOSTILE
    assert found == table.match_all([(name, "") for name in HOSTILE]), "the same each time"


def test_of_two_the_first_with_contours_keeps_the_name(table: NameTable) -> None:
    found = table.match_all(
        [("RECTUM", ""), ("rectum ", ""), ("PTV", "PTV"), ("ptv", "PTV")], [False, True, True, True]
    )
    assert [(match.name, match.kind, match.matched) for match in found] == [
        ("Rectum_2", "other", True),
        ("Rectum", "oar", True),
        ("PTV", "target", True),
        ("PTV_2", "target", True),
    ]
    assert [match.remark for match in found] == [
        "'RECTUM' is called Rectum_2, as another structure is Rectum, and is of kind other",
        "",
        "",
        "'ptv' is called PTV_2, as another structure is PTV",
    ]


def test_a_standard_spelling_goes_before_another(table: NameTable) -> None:
    found = table.match_all([("Lt Lung", ""), ("Lung_L", "")])
    assert [match.name for match in found] == ["Lung_L_2", "Lung_L"]


def test_a_row_about_one_spelling_leaves_the_standard_one_alone(tmp_path: Path) -> None:
    """A list that says what `bladder` is renames no `Bladder`, but other ways to write the first."""
    path = tmp_path / "names_review.csv"
    path.write_text("original,name\nbladder,Bladder_Old\nPUMP a,Pump\nPump A,Pump_2\n")
    table = NameTable.load(path)
    names = ("Bladder", "bladder", " bladder", "BLADDER", "PUMP a", "Pump  A")
    assert [table.match(name).name for name in names] == [
        *("Bladder", "Bladder_Old", "Bladder_Old", "Bladder_Old"),
        *("Pump", "Pump_2"),
    ]
    both = table.match_all([("bladder", ""), ("Bladder", "")])
    assert [(match.name, match.kind, match.remark) for match in both] == [
        ("Bladder_Old", "oar", ""),
        ("Bladder", "oar", ""),
    ]


def test_a_name_that_sounds_known_does_not_get_it(table: NameTable) -> None:
    found = table.match_all([("SpinalCord~", ""), ("Rectum!", ""), ("PTV_7000!", "")])
    assert [match.name for match in found] == ["SpinalCord_part", "Rectum_other", "PTV_7000_other"]


def test_above_is_told_only_of_what_is_there(table: NameTable) -> None:
    (alone,) = table.match_all([("Brain Stem", "")])
    both = table.match_all([("Brain Stem", ""), ("Cord", "")])
    assert (alone.above, both[0].above) == ("", "SpinalCord")


def test_hidden_names_are_told_nowhere(table: NameTable, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps([{"original": "Boost Meier", "name": "PTV1", "kind": "target"}]))
    known = NameTable.load(own)
    rois = [("Boost Meier", ""), ("GTV Meier", "GTV"), ("Kontur Meier", "EXTERNAL"), ("Lt Lung", ""), ("PTV70", "")]
    found = known.match_all(rois, hide=lambda original: f"ROI_{len(original)}")
    assert "Meier" not in repr(found)
    assert [(match.name, match.original) for match in found] == [
        ("PTV1", "PTV1"),
        ("ROI_9", "ROI_9"),
        ("External", "External"),
        ("Lung_L", "Lt Lung"),
        ("PTV_7000", "PTV70"),
    ]
    assert [match.kind for match in found] == ["target", "target", "external", "oar", "target"]


def test_assign_chooses_in_the_order_it_is_told() -> None:
    assert assign(["a", "A", "b"]) == {0: "a", 1: "A_2", 2: "b"}
    assert assign(["a", "A", "b"], order=[1, 0, 2]) == {0: "a_2", 1: "A", 2: "b"}
    assert assign(["a_2", "a", "a"]) == {0: "a_2", 1: "a", 2: "a_3"}
    long = assign(["x" * 90] * 3)
    assert len(set(long.values())) == 3 and max(map(len, long.values())) == 64


def test_a_table_of_ones_own_goes_before(tmp_path: Path) -> None:
    path = tmp_path / "structures.json"
    rows = [
        {"original": "Zielvolumen 1", "name": "PTV1", "kind": "target", "prescription_gy": 60.0},
        {"name": "Femur", "sides": "only", "synonyms": ["femur", "os femoris"]},
        {"original": "Rectum", "name": "Rectum_Planning", "kind": "other"},
    ]
    path.write_text(json.dumps(rows))
    table = NameTable.load(path, None)
    first = table.match(" zielvolumen  1")
    assert (first.name, first.kind, first.prescription_gy) == ("PTV1", "target", 60.0)
    assert table.match("Lt Femur").name == "Femur_L"
    assert table.match("Femoral head Lt").name == "Femur_Head_L"
    assert table.match("Rectum").name == "Rectum_Planning"
    assert table.match("Rektum").name == "Rectum"
    assert table.digest != NameTable.load().digest
    assert pickle.loads(pickle.dumps(table)).match("Lt Femur").name == "Femur_L"


def test_the_published_tables_can_be_passed(root: Path) -> None:
    table = NameTable.load(root / "data_prep" / "openkbp" / "structures.json")
    assert table.match("RightParotid").name == "Parotid_R"
    assert (table.match("PTV56").name, table.match("PTV56").prescription_gy) == ("PTV56", 56.0)
    own = root / "data_prep" / "dicom_rt" / "structures.json"
    assert NameTable.load(own).digest == NameTable.load().digest


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ({"name": "A"}, "no table"),
        (["A"], "row 1: is no structure"),
        ([{"original": "A"}], "row 1: is no structure"),
        ([{"name": "A", "colour": "red"}], "row 1: is no structure"),
        ([{"name": "a/b"}], "characters"),
        ([{"name": "A"}, {"name": "A", "kind": "organ"}], "row 2: kind is 'organ'"),
        ([{"name": "A", "sides": "both"}], "sides is 'both'"),
        ([{"name": "A", "synonyms": "a"}], "no list"),
        ([{"name": "A", "synonyms": ["a~"]}], "has signs"),
        ([{"name": "A", "prescription_gy": -1}], "no dose in Gy"),
    ],
)
def test_a_table_that_cannot_be_meant(tmp_path: Path, rows: object, what: str) -> None:
    path = tmp_path / "structures.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=what):
        NameTable.load(path)


# The shipped table itself


def test_it_is_large_and_has_each_name_once(table: NameTable) -> None:
    assert len(table.names) >= 300
    counts = Counter(row.name for row in table.rows)
    assert max(counts.values()) == 1
    assert all(safe_name(name) == name for name in table.names)


def test_no_word_means_two_things(table: NameTable) -> None:
    """Neither as it stands, nor as what it becomes with a side; what could mean two things is not known."""
    meant: dict[str, set[str]] = {}
    for row in table.rows:
        reverse = "_".join(reversed(row.name.split("_")))
        for word in {normal_form(item) for item in (row.name, reverse, *row.synonyms, *row.french)}:
            if row.sides != "only":
                meant.setdefault(word, set()).add(row.name)
            for side in SIDES if row.sides else ():
                sides = FRENCH_SIDES if word in map(normal_form, row.french) else SIDES
                for spelled in sides[side]:
                    meant.setdefault(word + spelled, set()).add(f"{row.name}_{side}")
                    meant.setdefault(spelled + word, set()).add(f"{row.name}_{side}")
    found = {word: table.match(word) for word in meant}
    known = {word: match.name for word, match in found.items() if match.matched}
    assert known == {word: name for word, (name, *others) in meant.items() if not others}
    assert set(found) - set(known) == {"liianeckln", "liibneckln", "liiineckln", "livneckln"}, "roman numbers behind li"


def test_standard_names_are_their_own(table: NameTable) -> None:
    assert {name: table.match(name).name for name in table.names if table.match(name).name != name} == {}


def test_what_lies_above_is_in_the_table(table: NameTable) -> None:
    assert {match.above for match in table.names.values()} - {""} <= set(table.names)


def test_suggestions_are_near_and_of_the_right_side(table: NameTable) -> None:
    assert table.suggest("SpinalCord~")[0] == "SpinalCord"
    assert table.suggest("Lung~_L")[0] == "Lung_L"
    assert table.suggest("Rectumm")[0] == "Rectum"
    assert table.suggest("Submandibularr L")[0] == "Glnd_Submand_L"
    assert table.suggest("CouchInterior") == []
    assert table.suggest("") == table.suggest("!!!") == []


def test_sides_are_taken_off_in_every_way() -> None:
    assert ("lung", "L") in split_side("lunglt", SIDES)
    assert ("lung", "R") in split_side("rtlung", SIDES)
    assert split_side("l", SIDES) == []


def test_a_target_has_one_dose_and_one_side() -> None:
    assert parse_target("PTV_60_70") is None
    assert parse_target("PTV_L_R") is None
    assert parse_target("PTV 151 Gy") is None
    assert parse_target("PTV 0Gy") is None
