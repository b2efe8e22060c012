"""Miniature twins of public sets that are labelled by tables, in these sets' own columns; films are noise."""

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from samples import encode


def _header(line: str) -> list[str]:
    return line.split(",")


NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
CHEXPERT = _header(
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
VINDR = _header(
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
    "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
    "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,"
    "Tuberculosis,Other diseases,No finding"
)
PCXR = _header(
    "No finding,Bronchitis,Brocho-pneumonia,Other disease,Bronchiolitis,Situs inversus,Pneumonia,Pleuro-pneumonia,"
    "Diagphramatic hernia,Tuberculosis,Congenital emphysema,CPAM,Hyaline membrane disease,Mediastinal tumor,Lung tumor"
)


@dataclass
class Twin:
    """A set on disk: its source, its label files, and the patient of each film by file name."""

    root: Path
    labels: list[Path] = field(default_factory=list)
    patients: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.root / "films"

    def film(self, name: str, patient: str = "") -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise_png(name))
        self.patients[path.stem] = patient

    def table(self, name: str, text: str, *, packed: bool = False) -> Path:
        path = self.root / name
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        self.labels.append(path)
        return path


def noise_png(seed: str) -> bytes:
    random = np.random.default_rng(list(seed.encode()))
    return encode(Image.fromarray(random.integers(0, 256, (40, 60), dtype=np.uint8)))


def lines(header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",") -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    return stream.getvalue()


def yes(columns: Sequence[str], *findings: str, value: str = "1.0", otherwise: str = "") -> list[str]:
    """A row of indicator columns."""
    assert set(findings) <= set(columns)
    return [value if column in findings else otherwise for column in columns]


def nih(root: Path) -> Twin:
    """Twelve patients of three films, the last three of them in the test list."""
    twin, rows, names = Twin(root), [], []
    found = ("No Finding", "Pneumonia", "Pneumonia|Infiltration", "Effusion|Mass")
    for patient in range(1, 13):
        for shot in range(3):
            name = f"{patient:08d}_{shot:03d}.png"
            twin.film(f"images_{1 + patient // 7:03d}/images/{name}", str(patient))
            names.append(name)
            rows.append(
                f"{name},{found[patient % 4]},{shot},{patient},058Y,M,{'PA' if shot else 'AP'},2682,2749,.1,.1,"
            )
    twin.table("Data_Entry_2017_v2020.csv", "\n".join([NIH, *rows]))
    twin.table("train_val_list.txt", "\n".join(names[:27]))
    twin.table("test_list.txt", "\n".join(names[27:]))
    return twin


def rsna(root: Path) -> Twin:
    """Eight films of each class; pneumonias have two boxes each."""
    twin, boxes, classes = Twin(root), [], []
    for number in range(24):
        patient = f"{number:08x}-36f6-4ec3"
        twin.film(f"stage_2_train_images/{patient}.png", patient)
        kind = ("Lung Opacity", "Normal", "No Lung Opacity / Not Normal")[number % 3]
        for box in range(2 if number % 3 == 0 else 1):
            boxes.append((patient, box, 152.0, 213.0, 379.0, 1) if number % 3 == 0 else (patient, "", "", "", "", 0))
            classes.append((patient, kind))
    twin.film("stage_2_test_images/unlabelled.png")
    twin.table("stage_2_train_labels.csv", lines(("patientId", "x", "y", "width", "height", "Target"), boxes))
    twin.table("stage_2_detailed_class_info.csv", lines(("patientId", "class"), classes))
    return twin


def chexpert(root: Path) -> Twin:
    """Sixteen patients with a frontal and a lateral film each, four of them in the validation part."""
    twin = Twin(root)
    tables: dict[str, list[list[str]]] = {"train": [], "valid": []}
    for number in range(16):
        part = "train" if number < 12 else "valid"
        kind = number % 4
        found = yes(CHEXPERT, *(("No Finding",), ("Pneumonia",), (), ("No Finding", "Support Devices"))[kind])
        if kind == 2:
            found[CHEXPERT.index("Pneumonia")] = "-1.0"
        for view in ("1_frontal", "2_lateral"):
            path = f"CheXpert-v1.0-small/{part}/patient{number:05d}/study1/view{view}.jpg"
            twin.film(path, f"patient{number:05d}")
            side = view[2:].capitalize()
            tables[part].append([path, "Female", "68", side, "AP" if side == "Frontal" else "", *found])
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
    for part, rows in tables.items():
        twin.table(f"{part}.csv", lines(header, rows))
    return twin


def mimic(root: Path) -> Twin:
    """Sixteen studies, two of each patient, with three views each; one study has no labels."""
    twin, labels, metadata, split = Twin(root), [], [], []
    columns = sorted(CHEXPERT)
    for number in range(16):
        study, subject = 50_000_000 + number, 10_000_000 + number // 2
        if number != 15:
            labels.append([subject, study, *yes(columns, "No Finding" if number % 2 else "Pneumonia")])
        for shot, view in enumerate(("PA", "LATERAL", "AP")):
            dicom = f"{number:02x}{shot}4a-aa-bb"
            twin.film(f"files/p10/p{subject}/s{study}/{dicom}.jpg", str(subject))
            metadata.append((dicom, subject, study, "CHEST (PA AND LAT)", view, 10, 10))
            split.append((dicom, study, subject, ("train", "validate", "test")[number // 2 % 3]))
    twin.table("mimic-cxr-2.0.0-chexpert.csv.gz", lines(["subject_id", "study_id", *columns], labels), packed=True)
    names = (
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
        "Columns",
    )
    twin.table("mimic-cxr-2.0.0-metadata.csv", lines(names, metadata))
    twin.table("mimic-cxr-2.0.0-split.csv", lines(("dicom_id", "study_id", "subject_id", "split"), split))
    return twin


def vindr(root: Path) -> Twin:
    """Fourteen train films read by three radiologists each, and six test films with other columns."""
    twin, train, test = Twin(root), [], []
    for number in range(20):
        name, finding = f"{number:032x}", "Pneumonia" if number % 2 else "No finding"
        twin.film(f"{'train' if number < 14 else 'test'}/{name}.png", name)
        if number >= 14:
            test.append([name, *yes(VINDR, finding, value="1", otherwise="0")])
            continue
        for reader in range(3):
            own_finding = finding if reader or number > 11 else "COPD"
            train.append([name, f"R{reader}", *yes(VINDR, own_finding, value="1", otherwise="0")])
    twin.table("image_labels_train.csv", lines(["image_id", "rad_id", *VINDR], train))
    renamed = [{"Other diseases": "Other disease"}.get(each, each) for each in VINDR]
    twin.table("image_labels_test.csv", lines(["image_id", *renamed], test))
    return twin


def pcxr(root: Path) -> Twin:
    """Twenty films of children with one reader each."""
    twin, rows = Twin(root), []
    for number in range(20):
        name = f"{number:032x}"
        twin.film(f"train/{name}.png", name)
        finding = ("No finding", "Brocho-pneumonia", "Pneumonia", "Bronchitis")[number % 4]
        rows.append([name, "R1", *yes(PCXR, finding, otherwise="0.0")])
    twin.table("image_labels_train.csv", lines(["image_id", "rad_ID", *PCXR], rows))
    return twin


def covidx(root: Path) -> Twin:
    """Fifteen patients of two films, five of them in the test part."""
    twin = Twin(root)
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(30):
        part, patient = "train" if number < 20 else "test", str(number // 2)
        name = f"SARS-10.1148rg.{number}-g04 Fig{number}.png"
        twin.film(f"{part}/{name}", patient)
        label = ("normal", "pneumonia", "COVID-19")[number // 2 % 3]
        parts[part].append(f"{patient} {name} {label} cohen")
    for part, rows in parts.items():
        twin.table(f"{part}_COVIDx9A.txt", "\n".join(rows) + "\n")
    return twin


def shenzhen(root: Path) -> Twin:
    """Twenty films, half of them with tuberculosis, described in words; the table begins with a byte order mark."""
    twin, rows = Twin(root), []
    for number in range(20):
        name = f"CHNCXR_{number:04d}_{number % 2}.png"
        twin.film(f"images/{name}", name)
        rows.append((name, "Male", 45, "right upper PTB, with pleurisy" if number % 2 else "normal"))
    twin.table("shenzhen_metadata.csv", "\ufeff" + lines(("study_id", "sex", "age", "findings"), rows))
    return twin


def padchest(root: Path) -> Twin:
    """Twenty frontal films and as many lateral ones."""
    twin, rows = Twin(root), []
    for number in range(20):
        found = ("['normal']", "[' pneumonia', 'infiltrates']", "['cardiomegaly']", "['atypical pneumonia']")[
            number % 4
        ]
        for view in ("PA", "L"):
            name = f"{number:08d}_{view}.png"
            twin.film(f"{number % 3}/{name}", str(number // 2))
            rows.append((name, number % 3, f"s{number}", number // 2, "POSTEROANTERIOR", view, found))
    header = ("ImageID", "ImageDir", "StudyID", "PatientID", "ViewPosition_DICOM", "Projection", "Labels")
    twin.table("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", lines(header, rows))
    return twin
