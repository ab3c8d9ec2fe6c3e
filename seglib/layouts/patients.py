"""Who is a patient: one rule for pictures, slices and volumes of all layouts.

Images of one patient resemble each other, so the split must keep them together. A layout may know
the patient for sure, such as by a folder for each patient. Otherwise `by_names` judges the names of
all images of a data set together: whether 12 in `case_12` is a patient or a slice, only the other
names can tell. The settings `patient_pattern` and `patient_table` overrule both. Taught in
`01_data_preparation`.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..errors import DataError, listed
from ..files import folded
from ..formats import channels

# Names of well-known data sets, whose patient cannot be seen from the other names.
_PUBLISHED = (
    r"(?P<patient>patient\d+)(?!\d).*",  # ACDC, CAMUS: patient001_frame01
    r"(?P<patient>TCGA[-_][A-Z\d]{2}[-_][A-Z\d]{4})(?![A-Z\d]).*",  # TCGA_CS_4941_19960909_12
    r"(?P<patient>LIDC-IDRI-\d{4})(?!\d).*",
    r"(?P<patient>\d{3}_S_\d{4})(?!\d).*",  # ADNI: number of the site, S, number of the patient
    r"\d+_(?P<patient>[\da-f]{16})_MG_[LR]_\w+",  # INbreast: the file's number comes first
    r"(Mass|Calc)-(Training|Test)_(?P<patient>P_\d{5})_.*",  # CBIS-DDSM
    r"1-s2\.0-(?P<patient>S\d+)-.*",  # figures of a paper, in sets of COVID-19
)
# Copies of the Decathlon as pictures put the number of the slice first: 10019_spleen_3.
_ORGAN_SLICE = re.compile(r"\d+_(?P<organ>[a-z]+)_\d+")
# A number behind such a word, or joined to it, tells images of one patient apart; so does one
# before a unit of time.
_IMAGE_WORDS = frozenset("day frame slice sl visit ses session timepoint tp week month".split())
# So does one behind a word for a part of an image, or for a copy that was changed; the word itself
# may be joined to the number of the image: 12flip.
_PART_WORDS = frozenset("patch tile crop".split())
_COPY_WORDS = frozenset(
    "aug augmented flip flipped hflip vflip rot rotated mirror mirrored copy orig original".split()
)
_TIME_UNITS = frozenset("hours days weeks months".split())
# So do the side, the view, the time and the sequence.
_VIEW_WORDS = frozenset(
    "left right l r od os oi le re pa ap cc mlo lat lateral admission baseline followup pre post "
    "ed es t1 t2 t1w t2w t1c t1ce t1gd flair dwi adc".split()
)
# A number behind such a word, or joined to it, is that of a patient wherever it stands.
_PERSON_WORDS = frozenset("patient pat subject subj sub pt".split())
_MODALITIES = frozenset("ct mr mri pet us xr img image series scan visit view vol volume".split())
# What follows such a word, or is joined to it, is a part of the data set: fold1_12.
_GROUP_WORDS = frozenset(
    "fold part batch set dataset group class grade stage type site center centre hospital cohort "
    "birads annotation annotator rater task".split()
)
# A year at the beginning of all names is no patient.
_YEAR = re.compile(r"(19|20)\d\d")
# What may be joined to the number of a patient or of an image.
_JOINED = re.compile(
    rf"(\D*\d+)([a-z]|od|os|oi|le|re|left|right|({'|'.join(_COPY_WORDS)})\d*)", re.IGNORECASE
)
# So large a share of names must have their first number at the same position.
_REGULAR = 0.9
# So many different words must number their images before they look like names of patients.
_MIN_WORDS = 4
_ADVICE = "if they show the same patients, set patient_pattern or patient_table"


class Naming(NamedTuple):
    """Which names are of one patient.

    Attributes:
        patient_of: name -> patient.
        how: how they were told apart, "" where each name is a patient of its own.
        warning: what looks like several images of one patient but was not taken so; "" for none.
    """

    patient_of: dict[str, str]
    how: str
    warning: str


class _Field(NamedTuple):
    """A part of a name between separators.

    Attributes:
        text: the part as it is written.
        index: its place among all parts of the name.
        end: where it ends in the name.
        is_number: whether it may be the number of a patient.
        is_person: whether a word says that it is one.
    """

    text: str
    index: int
    end: int
    is_number: bool
    is_person: bool


def by_names(names: Iterable[str]) -> Naming:
    """Patients by the names of all images (or volumes) of a data set, judged together.

    The patient is the beginning of a name up to its first number, without what all names share:
    10004 of `10004_21057`, but all of `ISIC_0001`. Left and right, day, frame, slice and view never
    tell patients apart. Where this would make one patient of all names, or where the names have no
    common form, each name is taken for a patient of its own.
    """
    names = list(dict.fromkeys(names))
    patient_of = _published(names)
    patient_of |= _by_first_number([name for name in names if name not in patient_of])
    # Spellings that differ in case or in the form of accents are one patient.
    spelling: dict[str, str] = {}
    patient_of = {
        name: spelling.setdefault(folded(patient_of[name]), patient_of[name]) for name in names
    }
    if len(spelling) == len(names):
        return Naming(patient_of, "", _warning(names))
    if len(spelling) == 1:
        warning = (
            f"all {len(names)} names look like those of one patient ({listed(names)}), and each "
            f"was taken for a patient of its own; {_ADVICE}"
        )
        return Naming(dict(zip(names, names)), "", warning)
    return Naming(patient_of, _how(patient_of), "")


def names_an_organ(name: str) -> bool:
    """Whether a name has the form slice_organ_case, such as 10019_spleen_3."""
    match = _ORGAN_SLICE.fullmatch(name)
    other_words = _IMAGE_WORDS | _VIEW_WORDS | _PERSON_WORDS | _GROUP_WORDS | _MODALITIES
    return match is not None and match["organ"] not in other_words


def judged(cases: pd.DataFrame) -> pd.DataFrame:
    """The case table with patients by the names in its column `patient`, see `by_names`.

    `attrs["patients"]` says how, for the report of `prepare`.
    """
    naming = by_names(cases["patient"])
    patient = cases["patient"].map(naming.patient_of).astype(object)
    return stated(cases.assign(patient=patient), naming.how, naming.warning)


def stated(cases: pd.DataFrame, how: str, warning: str = "") -> pd.DataFrame:
    """The case table, which remembers how its patients were told apart."""
    cases.attrs["patients"] = {"how": how, "warning": warning, "settings": [None, None]}
    return cases


def identified(cases: pd.DataFrame, ids: Mapping[str, str]) -> pd.DataFrame:
    """The case table with the PatientID of DICOM as the patient of volumes that have one.

    Where all have the same one, it says nothing: anonymised files have.

    Args:
        ids: volume -> PatientID, "" where there is none.
    """
    patient_ids = pd.Series([ids.get(v, "") for v in cases["volume"]], cases.index, dtype=object)
    if len(set(patient_ids) - {""}) < 2:
        return cases
    how = cases.attrs["patients"]["how"]
    others = f"; of other files {how or 'each is of a patient of its own'}"
    attrs = dict(cases.attrs)
    cases = cases.assign(patient=cases["patient"].where(patient_ids == "", patient_ids))
    cases.attrs = attrs
    how = "by the PatientID of DICOM" + (others if (patient_ids == "").any() else "")
    return stated(cases, how, attrs["patients"]["warning"] if others in how else "")


def of(cases: pd.DataFrame, cfg: Any) -> pd.DataFrame:
    """The case table with the patients of `patient_pattern` or `patient_table`, where one is set.

    A table that was made with the same settings stays as it is, so that edits by hand hold.

    Raises:
        DataError: the pattern or the table does not name the patient of every case.
    """
    settings = [cfg.patient_pattern, cfg.patient_table]
    about = cases.attrs.get("patients", {})
    if not any(settings) or about.get("settings") == settings:
        return cases
    if cfg.patient_pattern:
        patients, how = _by_pattern(cases, cfg.patient_pattern), "by patient_pattern"
    else:
        patients = _by_table(cases, Path(cfg.patient_table).expanduser())
        how = f"by patient_table ({Path(cfg.patient_table).name})"
    attrs = {**cases.attrs, "patients": {"how": how, "warning": "", "settings": settings}}
    cases = cases.assign(patient=patients)
    cases.attrs = attrs
    return cases


def sentence(cases: pd.DataFrame) -> str:
    """How many patients a case table has, and how they were told apart."""
    how = cases.attrs.get("patients", {}).get("how", "")
    units, n_units = "images", len(cases)
    if "volume" in cases and (cases["volume"] != "").all():
        units, n_units = "volumes", len(cases[["patient", "volume"]].drop_duplicates())
    n_patients = cases["patient"].nunique()
    if n_patients == n_units > 1 and not how:
        return f"{_count(n_units, units)}, each of a patient of its own"
    how = how or "as the case table has them"
    return f"{_count(n_units, units)} of {_count(n_patients, 'patients')}, {how}"


# ---- by the names


def _published(names: list[str]) -> dict[str, str]:
    """Name -> patient, of the names that have the form of a well-known data set."""
    result = {}
    for name in names:
        matches = (re.fullmatch(pattern, name, re.IGNORECASE) for pattern in _PUBLISHED)
        match = next((match for match in matches if match), None)
        if match:
            result[name] = match["patient"]
    if names and all(map(names_an_organ, names)):
        result = {name: name.split("_", 1)[1] for name in names}
    return result


def _by_first_number(names: list[str]) -> dict[str, str]:
    """Name -> its beginning up to the first number that is not the same in all names."""
    fields = {name: _fields(name) for name in names}
    n_shared = _n_shared(list(fields.values()))
    years = [rest[n_shared].text for rest in fields.values() if len(rest) > n_shared]
    if len(years) == len(names) and all(_YEAR.fullmatch(text) for text in years):
        n_shared += 1
    persons = {name: _first(rest, "is_person", 0) for name, rest in fields.items()}
    if None not in persons.values():
        return {name: _person(name, fields[name], place) for name, place in persons.items()}
    position = {name: _first(rest, "is_number", n_shared) for name, rest in fields.items()}
    positions = Counter(place for place in position.values() if place is not None)
    if positions and positions.most_common(1)[0][1] < _REGULAR * positions.total():
        position = dict.fromkeys(names)  # names of no common form: a number may be anything
    patient_of = {name: _beginning(name, fields[name], position[name]) for name in names}
    return _without_ending(patient_of)


def _fields(name: str) -> list[_Field]:
    """The fields of a name but those that only tell images of one patient apart."""
    matches = list(re.finditer(r"\d{4}-\d\d-\d\d|[^-_ /(]+", name))  # a date is one field
    texts = ["", *(match[0].lower() for match in matches), ""]
    fields = []
    for index, match in enumerate(matches):
        previous, text, following = texts[index : index + 3]
        word = text.rstrip("0123456789)")
        is_alone = text.isdigit()
        # The number of an image may follow such a word: aug_1_12, tile_12.
        numbers_a_copy = previous in _COPY_WORDS | _PART_WORDS and (index > 1 or bool(following))
        numbers_an_image = is_alone and (
            previous in _IMAGE_WORDS or following in _TIME_UNITS or numbers_a_copy
        )
        of_an_image = word in _IMAGE_WORDS | _COPY_WORDS or text in _VIEW_WORDS | _TIME_UNITS
        of_an_image = of_an_image or (index > 0 and word in _PART_WORDS)
        if of_an_image or numbers_an_image:
            continue
        is_disease = (previous, text) == ("covid", "19") or text == "covid19"
        noun = previous if is_alone else word
        has_digit = any(map(str.isdigit, text))
        is_number = has_digit and noun not in _GROUP_WORDS and not is_disease
        is_person = has_digit and noun in _PERSON_WORDS
        fields.append(_Field(match[0], index, match.end(), is_number, is_person))
    return fields


def _n_shared(fields: list[list[_Field]]) -> int:
    """The number of fields at the beginning that are the same in all names."""
    if len(fields) < 2:
        return 0
    texts = [[field.text.lower() for field in row] for row in fields]
    return len(os.path.commonprefix(texts))


def _first(fields: list[_Field], what: str, start: int) -> int | None:
    """The position of the first field from `start` on that `is_number` or `is_person`, or None."""
    return next((k for k in range(start, len(fields)) if getattr(fields[k], what)), None)


def _person(name: str, fields: list[_Field], position: int) -> str:
    """The name up to a patient's number, without numbers before it, which are of something else."""
    texts = [field for field in fields[:position] if not field.is_number]
    return _beginning(name, [*texts, fields[position]], None)


def _beginning(name: str, fields: list[_Field], position: int | None) -> str:
    """The name up to the field at `position` (None: the last), without fields left out before."""
    if not fields:
        return name
    last = len(fields) - 1 if position is None else position
    if fields[last].index == last:
        return name[: fields[last].end]
    return "_".join(field.text for field in fields[: last + 1])


def _without_ending(patient_of: dict[str, str]) -> dict[str, str]:
    """The same without what is joined to a patient's number: 01L and 01R, P01S07 and P01S08."""
    last_fields = [re.split(r"[-_ /(]", patient)[-1] for patient in patient_of.values()]
    joined = [re.fullmatch(r"([A-Za-z]*)\d+([A-Za-z]+)\d+", text) for text in last_fields]
    if joined and all(joined) and len({match.groups() for match in joined}) == 1:
        shorter = {name: re.sub(r"[A-Za-z]+\d+$", "", text) for name, text in patient_of.items()}
        return shorter if len(set(shorter.values())) > 1 else patient_of
    stems = {}
    for name, text in zip(patient_of, last_fields):
        joined_words = _JOINED.fullmatch(text)
        n_joined = len(joined_words[2]) if joined_words else 0
        stems[name] = patient_of[name][: len(patient_of[name]) - n_joined]
    spellings = defaultdict(set)
    for name, stem in stems.items():
        spellings[stem].add(patient_of[name])
    return {
        name: stem if len(spellings[stem]) > 1 else patient_of[name] for name, stem in stems.items()
    }


def _how(patient_of: dict[str, str]) -> str:
    """How these patients were told apart, with an example."""
    name, patient = next((n, p) for n, p in patient_of.items() if n != p)
    pairs = patient_of.items()
    if all(patient == name.split("_")[0] for name, patient in pairs):
        part = "the name before the first underscore"
    elif all(name.startswith(patient) for name, patient in pairs):
        part = "the beginning of the name"
    else:
        part = "a part of the name"
    return f"by {part} ({name} is of {patient})"


def _warning(names: list[str]) -> str:
    """A sentence where names that were taken for patients look like several images of one."""
    fields = [_fields(name) for name in names]
    n_shared = _n_shared(fields)
    if len(names) > 1 and not any(fields):
        return f"{listed(names)} are numbered as images of one patient would be; {_ADVICE}"
    if 0 < n_shared and all(len(row) == n_shared + 1 for row in fields):
        shared = fields[0][n_shared - 1]
        is_person = re.fullmatch(r"(patient|pat|p|case|subject|sub|s|id)?\d+", shared.text.lower())
        if is_person and shared.is_number and not _YEAR.fullmatch(shared.text):
            return (
                f"the names differ in their last number only ({listed(names)}), as images of one "
                f"patient would, and each was taken for a patient of its own; {_ADVICE}"
            )
    first_words = Counter(
        row[0].text.lower() for row in fields if len(row) == 2 and row[1].text.isdigit()
    )
    if first_words.total() == len(names) >= 2 * len(first_words) >= 2 * _MIN_WORDS:
        return (
            f"several names begin with the same word ({listed(names)}), and each was taken for a "
            f"patient of its own; {_ADVICE}"
        )
    return ""


# ---- by the user's settings


def _by_pattern(cases: pd.DataFrame, pattern: str) -> list[str]:
    """The patient of each row by the group `patient` of a regular expression.

    Raises:
        DataError: names in which the pattern finds no patient.
    """
    names = _names(cases)
    matches = [re.search(pattern, name) for name in names]
    patients = [match["patient"] if match else None for match in matches]
    missing = list(dict.fromkeys(n for n, patient in zip(names, patients) if not patient))
    if missing:
        raise DataError(
            f"patient_pattern: {pattern!r} finds no patient in {len(missing)} of "
            f"{len(set(names))} names ({listed(missing)}); it is searched in the name of the "
            "picture without its suffix, or of the volume; correct it, set patient_table, or none"
        )
    return patients


def _by_table(cases: pd.DataFrame, path: Path) -> list[str]:
    """The patient of each row by a CSV file with the columns case and patient.

    Its cases are the names of cases or of volumes, with or without the suffix of the file.

    Raises:
        DataError: no such file, a column is missing, a cell is empty, a case has two patients, or a
            case is not in the file.
    """
    table = _read_table(path)
    patient_of: dict[str, str] = {}
    for line, (case, patient) in enumerate(zip(table["case"], table["patient"]), start=2):
        if not case or not patient:
            column = "patient" if case else "case"
            raise DataError(f"{path}: line {line} has no {column}; expected a case and its patient")
        name = folded(case)
        if patient_of.setdefault(name, patient) != patient:
            raise DataError(
                f"{path}: line {line}: {case!r} is of patient {patient!r}, but of "
                f"{patient_of[name]!r} further up; expected one patient for each case"
            )
    patients, missing = [], []
    for case, volume, image in zip(cases["case"], _names(cases), cases["image"]):
        keys = (folded(name) for name in (case, volume, Path(channels.first_file(image)).name))
        patient = next((patient_of[key] for key in keys if key in patient_of), None)
        patients.append(patient)
        if patient is None:
            missing.append(volume)
    missing = list(dict.fromkeys(missing))
    if missing:
        raise DataError(
            f"{path}: no patient for {len(missing)} cases ({listed(missing)}); found {len(table)} "
            f"lines such as {listed(table['case'])}; add a line for each of them"
        )
    return patients


def _read_table(path: Path) -> pd.DataFrame:
    """The columns case and patient of a CSV file, as texts without spaces around them."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; patient_table is a CSV file: case,patient")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path}: not readable as a table ({error}); expected a CSV file with the columns "
            "case,patient"
        ) from error
    table.columns = [str(name).strip() for name in table]
    if not {"case", "patient"} <= set(table):
        raise DataError(
            f"{path}: found the columns {list(table)}; expected case and patient, separated by a "
            "comma"
        )
    return table[["case", "patient"]].apply(lambda column: column.str.strip())


def _names(cases: pd.DataFrame) -> list[str]:
    """The name of each row's volume, or of its picture."""
    if "volume" not in cases:
        return list(cases["case"])
    return [volume or case for volume, case in zip(cases["volume"], cases["case"])]


# ---- words


def _count(n: int, noun: str) -> str:
    return f"{n} {noun.removesuffix('s') if n == 1 else noun}"
