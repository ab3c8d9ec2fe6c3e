"""Who is a patient: by the names of a whole data set, by a pattern, by a table; and the split."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib import config, layouts, prepare
from seglib.errors import ConfigError, DataError
from seglib.layouts import patients
from tests.helpers import (
    binary_config,
    command,
    edit_dicom,
    labels_like,
    notes_of,
    numbered_volume,
    plant_pictures,
    rsna_config,
    save_nifti,
    write_picture,
    write_series_and_labels,
)

PEOPLE = range(1, 7)
SERIES = ["10004_21057", "10004_51033", "10005_18667", "10007_47578", "10082_6", "10082_7"]

# Names as data sets have them: a pattern of a patient's name, and what is put behind it.
GROUPED = {
    "patient_series_slice": ("1000{}", ["_7_0", "_7_1", "_8_0"]),
    "case_slice": ("{:04}", ["_000", "_001", "_002"]),
    "ACDC": ("patient{:03}", ["_frame01", "_frame12"]),
    "follow-up of ChestX-ray14": ("{:08}", ["_000", "_001"]),
    "eyes joined": ("Image_{:02}", ["L", "R"]),
    "eyes by number": ("{:02}", ["L", "R"]),
    "eyes in words": ("{}", ["_left", "_right"]),
    "eyes in Latin": ("p{}", ["_OD", "_OS"]),
    "RIM-ONE": ("G-{}", ["-L", "-R"]),
    "eyes in Latin, joined": ("P{:02}", ["OD", "OS"]),
    "eyes in words, joined": ("{}", ["left", "right"]),
    "copies by augmentation": ("img{}", ["", "_aug1", "_aug2", "_hflip"]),
    "copies joined": ("{}", ["", "flip", "rot90"]),
    "tiles": ("kid{}", ["_tile_0", "_tile_1"]),
    "crops": ("{:03}", ["_crop0", "_crop1"]),
    "days": ("covid-{}", ["-day-1", "-day-12"]),
    "days joined": ("x{}", ["_day1", "_day12"]),
    "hours": ("pneumonia-{}", ["-12-hours", "-3-days", "-admission"]),
    "LIDC": ("LIDC-IDRI-{:04}", ["_1.3.6.1", "_1.3.6.2"]),
    "TCGA": ("TCGA_CS_{:04}", ["_19960909_1", "_19960909_12"]),
    "BraTS": ("BraTS20_Training_{:03}", ["_1", "_2"]),
    "BraTS 2023": ("BraTS-GLI-{:05}", ["-000", "-001"]),
    "LiTS": ("liver_{}", ["_12", "_13"]),
    "BIDS": ("sub-{:02}", ["_ses-1_T1w", "_ses-2_T1w"]),
    "ADNI": ("002_S_{:04}", ["_1", "_2"]),
    "joined": ("P{:02}", ["S01", "S02"]),
    "letters": ("{}", ["a", "b"]),
    "words": ("Case {}", [" slice 1", " slice 2"]),
    "slice in the middle": ("{}", ["_slice_1", "_slice_2"]),
    "modality": ("{}", ["_ct_1", "_ct_2"]),
    "before and after": ("P{:02}", ["_pre", "_post"]),
    "copies": ("P{:02}", [" (1)", " (2)"]),
    "cars": ("0cdf5b5d0ce{}", ["_01", "_02", "_16"]),
    "mammograms": ("Mass-Training_P_0000{}", ["_LEFT_CC", "_LEFT_MLO", "_RIGHT_CC"]),
    "folders": ("p{}", ["/scan1", "/scan2"]),
}
# Names of which each is a patient, about whom nothing is said.
ALONE = {
    "ISIC": ["ISIC_{:07}"],
    "ISIC 2018": ["ISIC2018_{:07}"],
    "BUSI": ["benign ({})", "malignant ({})", "normal ({})"],
    "BUSI with underscores": ["benign_{}", "malignant_{}"],
    "chest": ["CHNCXR_{:04}_0", "MCUCXR_{:04}_1"],
    "PALM": ["N{:04}", "H{:04}", "P{:04}"],
    "Decathlon": ["spleen_{}"],
    "KiTS": ["case_{:05}"],
    "numbers": ["{}"],
    "DRIVE": ["{}_training"],
    "parts": ["train_{}", "test_{}"],
    "folds": ["fold1_{}", "fold2_{}"],
    "years": ["2018_{:04}", "2019_{:04}"],
    "covid": ["covid-19_{}", "normal_{}"],
    "uids": ["1.2.840.113619.{}"],
}


@pytest.mark.parametrize("kind", GROUPED)
def test_names_of_several_images_a_patient(kind):
    pattern, endings = GROUPED[kind]
    truth = {pattern.format(p) + ending: p for p in PEOPLE for ending in endings}
    naming = patients.by_names(truth)
    groups = pd.Series(truth).groupby(pd.Series(naming.patient_of)).agg(["nunique", "size"])
    assert (groups["nunique"] == 1).all(), "two people are one patient"
    assert (groups["size"] == len(endings)).all(), "a patient is divided"
    assert naming.how.startswith("by ") and not naming.warning


@pytest.mark.parametrize("kind", ALONE)
def test_names_of_one_image_a_patient(kind):
    names = [pattern.format(p) for pattern in ALONE[kind] for p in range(1, 30)]
    naming = patients.by_names(names)
    assert len(set(naming.patient_of.values())) == len(names)
    assert (naming.how, naming.warning) == ("", "")


@pytest.mark.parametrize(
    "names",
    [
        [f"10002_{k:03}" for k in range(20)],
        [f"case1_{k}" for k in range(20)],
        ["patient001_1", "patient001_2"],
        [f"slice_{k}" for k in range(20)],
        [f"frame{k:04}" for k in range(20)],
        [f"{word}_{k}" for word in ("anna", "bert", "cleo", "dora") for k in range(3)],
    ],
)
def test_names_that_look_like_images_of_one_patient_are_told(names):
    naming = patients.by_names(names)
    assert len(set(naming.patient_of.values())) == len(names), "never all in one"
    assert "set patient_pattern or patient_table" in naming.warning


def test_copies_of_images_without_a_number():
    words, endings = ("cat", "dog", "eye"), ("", "_aug1", "_aug_2", "_flipped", "_patch3")
    naming = patients.by_names(word + ending for word in words for ending in endings)
    assert set(naming.patient_of.values()) == set(words)


@pytest.mark.parametrize("first", ["aug{}_", "aug_{}_", "flip_", "orig_"])
def test_copies_that_are_called_so_in_front(first):
    names = [first.format(k) + f"im{p}" for k in range(2) for p in range(1, 5)]
    naming = patients.by_names([*names, *(f"im{p}" for p in range(1, 5))])
    assert {naming.patient_of[name] for name in names} == {"im1", "im2", "im3", "im4"}


def test_a_case_is_never_the_beginning_of_another():
    names = [f"case{p}_{k}" for p in (1, 10, 100) for k in range(3)]
    assert set(patients.by_names(names).patient_of.values()) == {"case1", "case10", "case100"}


def test_spellings_of_one_name():
    names = ["P01_1", "p01_2", "P02_1", "\u00e93_1", "e\u03013_2"]
    patient_of = patients.by_names(names).patient_of
    assert patient_of["P01_1"] == patient_of["p01_2"] == "P01"
    assert patient_of[names[3]] == patient_of[names[4]]


def test_slices_of_the_decathlon_put_their_number_first():
    names = ["10003_spleen_26", "10019_spleen_3", "10019_spleen_8", "10021_spleen_3"]
    assert list(patients.by_names(names).patient_of.values()) == [
        "spleen_26",
        "spleen_3",
        "spleen_8",
        "spleen_3",
    ]


@given(st.lists(st.text("ab1_- (.L", min_size=1, max_size=8), min_size=1, max_size=12, unique=True))
@settings(deadline=None, max_examples=200)
def test_every_name_gets_a_patient_and_never_all_the_same(names):
    naming = patients.by_names(names)
    assert list(naming.patient_of) == names and all(naming.patient_of.values())
    assert len(names) == 1 or len(set(naming.patient_of.values())) > 1
    # The order of the names decides only which spelling of a patient is shown.
    groups, again = (
        pd.Series(patients.by_names(order).patient_of)[names].factorize()[0].tolist()
        for order in (names, names[::-1])
    )
    assert groups == again


# ---- the same rule in every kind of files


def pictures_of(root, preset, names):
    masks = "labels" if preset == "rsna" else "masks"
    for name in names:
        noise = np.random.default_rng(list(name.encode())).integers(0, 255, (16, 18))
        write_picture(root / "images" / f"{name}.png", noise)
        write_picture(root / masks / f"{name}.png", (np.arange(288).reshape(16, 18) // 18) % 2)


def volumes_of(root, pattern, names):
    """NIfTI volumes and labels; `pattern` makes their paths of a name and of its role."""
    for number, name in enumerate(names):
        image = numbered_volume()
        voxels = np.asarray(image.dataobj) + number
        save_nifti(type(image)(voxels, image.affine), root / pattern(name, False))
        truth = np.indices(voxels.shape)[0] % 2
        save_nifti(labels_like(image, truth), root / pattern(name, True))


def trees(root):
    """Kind -> (config, names): the same six series of four patients in every kind of tree."""
    kinds = {}
    for preset in ("binary", "cardiac", "rsna"):
        pictures_of(root / preset, preset, [f"{name}_1" for name in SERIES])
        kinds[f"pictures of {preset}"] = config.preset(
            preset, "smoke", data_root=str(root / preset), work_dir=str(root / "work")
        )
    patterns = {
        "images": lambda name, label: f"{'labels' if label else 'images'}/{name}.nii.gz",
        "nnunet": lambda name, label: (
            f"labelsTr/{name}.nii.gz" if label else f"imagesTr/{name}_0000.nii.gz"
        ),
        "beside": lambda name, label: f"{name}_{'seg' if label else 'ct'}.nii.gz",
        "folders": lambda name, label: f"{name}/{'segmentation' if label else 'ct'}.nii.gz",
        "patients": lambda name, label: (
            f"{name.replace('_', '/')}/{'segmentation' if label else 'ct'}.nii.gz"
        ),
    }
    for kind, pattern in patterns.items():
        volumes_of(root / kind, pattern, SERIES)
        kinds[kind] = rsna_config(root / kind, root, label_map={"1": 1})
    return kinds


KINDS = (
    "pictures of binary",
    "pictures of cardiac",
    "pictures of rsna",
    "images",
    "nnunet",
    "beside",
    "folders",
    "patients",
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    result = trees(tmp_path_factory.mktemp("kinds"))
    assert set(result) == set(KINDS)
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_one_rule_for_all_files_and_presets(kinds, kind):
    cfg = kinds[kind].replace(val_split=0.25, test_split=0.25, keep_split=False)
    cases = layouts.scan(cfg)
    persons = cases["image"].str.extract(r"/(\d{5})[_/]")[0]
    assert persons.nunique() == 4
    groups = cases["patient"].groupby(persons).nunique()
    assert groups.eq(1).all() and cases["patient"].nunique() == 4
    store = prepare.build(cases, cfg)
    [note] = [note for note in store.report.notes if note.startswith("patients: ")]
    assert "6 images of 4 patients, by" in note or "6 volumes of 4 patients, by" in note
    assert note in str(store.report) or "4 patients" in str(store.report)
    for seed in range(5):
        parts = store.split(cfg.replace(split_seed=seed)).cases.groupby("patient")["split"]
        assert parts.nunique().eq(1).all()


def test_parts_of_the_tree_that_divide_a_patient_are_told(tmp_path):
    pictures_of(tmp_path / "train", "binary", ["10_1", "10_2", "11_1", "12_1"])
    pictures_of(tmp_path / "val", "binary", ["10_3", "13_1"])
    cfg = binary_config(tmp_path, work_dir=str(tmp_path / "work"))
    notes = prepare.build(layouts.scan(cfg), cfg).report.notes
    assert any("patients in two parts of the tree: 10;" in note for note in notes)
    # The same name in two parts is the same patient where names are those of patients.
    pictures_of(tmp_path / "val", "binary", ["11_1"])
    cases = layouts.scan(cfg)
    assert set(cases["patient"]) == {"10", "11", "12", "13"}
    assert {"train_11_1", "val_11_1"} <= set(cases["case"])


# ---- the user's settings


def eight_pictures(root):
    pictures_of(root, "binary", [f"{word}_{k}" for word in ("ann", "bob") for k in range(4)])
    return binary_config(root, work_dir=str(root / "work"))


def test_a_pattern_decides(tmp_path):
    cfg = eight_pictures(tmp_path)
    cases = layouts.scan(cfg)
    assert cases["patient"].nunique() == 8
    first = prepare.build(cases, cfg)
    own = cfg.replace(patient_pattern="^(?P<patient>[a-z]+)_")
    named = layouts.scan(own)
    assert set(named["patient"]) == {"ann", "bob"} and notes_of(named) == ""
    second = prepare.build(named, own)
    assert second.folder == first.folder, "the pixels are the same"
    assert "patients: 8 images of 2 patients, by patient_pattern" in second.report.notes
    assert second.cases.groupby("patient")["split"].nunique().eq(1).all()
    # It also applies to a table or a store that was made without it, and edits by hand hold.
    assert set(first.split(own).cases["patient"]) == {"ann", "bob"}
    assert set(prepare.build(cases, own).cases["patient"]) == {"ann", "bob"}
    edited = named.assign(patient=named["case"])
    assert prepare.build(edited, own).cases["patient"].nunique() == 8
    assert set(prepare.open_store(first.folder).split(own).cases["patient"]) == {"ann", "bob"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"'\(' is no regular expression"),
        (r"([a-z]+)_", "has no group called patient"),
        (r"(?P<person>[a-z]+)_", "has no group called patient"),
    ],
)
def test_a_pattern_is_checked_when_it_is_set(pattern, message):
    with pytest.raises(ConfigError, match=message):
        config.preset("binary", patient_pattern=pattern)
    with pytest.raises(ConfigError, match="both set"):
        config.preset("binary", patient_pattern="(?P<patient>.)", patient_table="a.csv")


def test_a_pattern_that_finds_no_patient(tmp_path):
    cfg = eight_pictures(tmp_path).replace(patient_pattern=r"(?P<patient>ann)_")
    with pytest.raises(
        DataError, match=r"no patient in 4 of 8 names \(bob_0, bob_1, bob_2 and 1 more"
    ):
        layouts.scan(cfg)


def test_a_pattern_sees_the_names_of_volumes(kinds):
    cfg = kinds["images"].replace(patient_pattern=r"^\d+_(?P<patient>\d)")
    assert set(layouts.scan(cfg)["patient"]) == {"2", "5", "1", "4", "6", "7"}


def write_table(path, lines, encoding="utf-8"):
    path.write_text("\n".join(lines), encoding=encoding)
    return str(path)


def test_a_table_decides(tmp_path, capsys):
    cfg = eight_pictures(tmp_path)
    lines = ["patient, case, sex", *[f"p{k % 3},ann_{k}.png,f" for k in range(4)]]
    lines += [f"p{k % 3},bob_{k},m" for k in range(4)]
    table = write_table(tmp_path / "who.csv", lines, "utf-8-sig")
    cases = layouts.scan(cfg.replace(patient_table=table))
    assert list(cases["patient"]) == ["p0", "p1", "p2", "p0"] * 2
    options = ["--data_dir", tmp_path, "--work_dir", tmp_path / "work", "--patient_table", table]
    assert command("prepare --size smoke", *options) == 0
    assert "8 images of 3 patients, by patient_table (who.csv)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "no such file"),
        (["name,patient", "ann_0,a"], r"columns \['name', 'patient'\]; expected case and patient"),
        (["case;patient", "ann_0;a"], r"columns \['case;patient'\]; expected case and patient"),
        (["case,patient", "ann_0,a", "ann_1,"], "line 3 has no patient"),
        (["case,patient", ",a"], "line 2 has no case"),
        (["case,patient", "ann_0,a", "ann_0,b"], "line 3: 'ann_0' is of patient 'b', but of 'a'"),
        (["case,patient", "ann_0,a"], r"no patient for 7 cases \(ann_1, ann_2, ann_3 and 4 more\)"),
        (["case,patient", "ann_0,a,b,c", '"'], "not readable as a table"),
        ([""], "not readable as a table"),
    ],
)
def test_tables_that_are_refused(tmp_path, lines, message):
    cfg = eight_pictures(tmp_path)
    path = tmp_path / "who.csv"
    if lines is not None:
        write_table(path, lines)
    with pytest.raises(DataError, match=rf"who\.csv: .*{message}"):
        layouts.scan(cfg.replace(patient_table=str(path)))


def test_who_was_told_apart_how(tmp_path):
    plant_pictures(tmp_path, *[f"{part}/{n}.png" for part in ("images", "masks") for n in "ab"])
    cases = layouts.scan(binary_config(tmp_path))
    assert patients.sentence(cases) == "2 images, each of a patient of its own"
    edited = cases.assign(patient="one")
    assert patients.sentence(edited) == "2 images of 1 patient, as the case table has them"


def test_real_names(real):
    cfg = binary_config(real("curvas_ct") / "annotation_1")
    cases = layouts.scan(cfg)
    assert (cases["patient"] == cases["case"].str[:5]).all()
    spleens = layouts.scan(binary_config(real("msd_spleen_ct")))
    assert spleens["patient"].str.fullmatch(r"spleen_\d+").all()


def test_a_folder_for_each_patient(tmp_path):
    for k, person in enumerate("ABCD"):
        for j in (1, 2):
            pictures_of(tmp_path / f"P{person}{k}", "binary", [f"{k}{j}"])
    cfg = rsna_config(tmp_path, tmp_path, layout="slices")
    patient = layouts.scan(cfg).set_index("case")["patient"].str.split("/").str[0]
    assert {patient[f"{k}1"] for k in range(4)} == {"PA0", "PB1", "PC2", "PD3"}
    assert all(patient[f"{k}1"] == patient[f"{k}2"] for k in range(4))


def test_the_patient_id_of_dicom_is_sure(tmp_path, stack):
    ids = {"x": "p 7", "y": "p 7", "z": "p 8"}
    for k, (name, patient_id) in enumerate(ids.items()):
        write_series_and_labels(tmp_path / "t" / name, np.roll(stack, k, axis=2))
        for file in (tmp_path / "t" / name / "ct").iterdir():
            edit_dicom(file, PatientID=patient_id)
    volumes_of(
        tmp_path / "t", lambda name, label: f"{name}_{'seg' if label else 'ct'}.nii.gz", ["w"]
    )
    cases = layouts.scan(rsna_config(tmp_path / "t", tmp_path))
    assert dict(zip(cases["volume"], cases["patient"])) == {**ids, "w_ct": "w"}
    assert "by the PatientID of DICOM; of other files" in patients.sentence(cases)
    # Anonymised files all have the same one, which says nothing.
    for name in ids:
        for file in (tmp_path / "t" / name / "ct").iterdir():
            edit_dicom(file, PatientID="ANON")
    cases = layouts.scan(rsna_config(tmp_path / "t", tmp_path))
    assert cases["patient"].nunique() == 4
