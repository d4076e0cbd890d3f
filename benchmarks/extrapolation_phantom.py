"""Is the extrapolated follow-up nearer to the true one than the baseline carried forward, and does risk separate?

    python benchmarks/extrapolation_phantom.py --work DIR [--repeat]   # goes on where it was stopped; an hour, 1 core

Real follow-up films are rare, so phantoms are asked, whose films at every visit are known. The cohort's rates were
matched to real knees before any model saw a phantom; a generator, an encoder and a grader of 64² are trained on it,
both kinds of bank are built from its training subjects, and held-out subjects are predicted as users' knees are: by
the encoder's code, without refinement.

Stated before the first film of this cohort (seed 2) was encoded; earlier runs, on the cohort with seed 1, are in
`docs/phantom.md`:
- Question: is the distance to the truth smaller for the prediction than for the baseline, in pairs, over subjects?
- Primary: 96 months, all 320 test subjects, truth = the film of that visit, distance = features of those of the
  grader's networks that the generator was not trained with. g(w_0 + d) against g(w_0) ("rendered") and
  x_0 + g(w_0 + d) - g(w_0) against x_0 ("added"), for `imaged` and `graded`, each with
  (i) `chosen`: the paper's closed form, k and a scale chosen on validation subjects by this distance, and
  (ii) `joint`: the expected change of `progression.latent.expected` by the multi-state model's chances, from the
  picture alone, nothing chosen. Eight comparisons, Holm's correction over their p.
- Statistic: the mean distance relative to the baseline's, with a bootstrap interval over subjects; p of a paired
  t-test, because the mean is what is claimed. Most knees do not rise, so the median says little; Wilcoxon's p
  stands beside.
- Risk: fast and any rise by 48 and 96 months among all 1,420 test subjects, AUC with DeLong's interval; primary: the
  multi-state model from the picture alone and with the read grade, fast by 96 months.
- Secondary: k = 5 unscaled (the paper's form), `mean` (the bank's mean displacement for everybody), LPIPS (which
  nothing was trained or chosen with), truth "same" (the disease of the visit seen as at baseline: change alone),
  other horizons, knees whose grade rises and the others, `joint` with the read grade, `joint` with the drift that is
  left out. Added when the grader was trained, before a generator was: the multi-state model that is also given the
  code's 32 leading coordinates, because out of fold the grader read little of the rate (AUC of fast rise by 96 months
  0.60 on training subjects).
- Controls: `own grades` (grade transport that is told the knee's later grades), the same by each bank's steps, and
  `true change` (the displacement between the encoder's codes of "same" and of the baseline).
- Stage "validation" measures on validation subjects only, to find what is broken before test subjects are measured.

Stated after the 320 had been measured and before a follow-up film of the other 1,100 test subjects was computed,
nothing else changed: the eight primary comparisons again, on those 1,100 ("confirmation").

Stated before a film of the cohort with seed 4 was computed: `--repeat`, everything again in one piece on that cohort,
at a smaller size (`REPEAT`: half the training subjects, half the generator's training, all test subjects, no LPIPS).
Primary there: the eight comparisons at 24, 48 and 96 months, on the 320, with Holm's correction over all 24. The
training of generator and encoder was cut from 12 and 18 kimg to 8 and 12, and LPIPS left out, before either was
trained, to save time.

Prints tables of Markdown and writes DIR/result.json. `docs/phantom.md` holds the results of the published run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import phantom_measures as measures
import phantom_risks
import torch
from code_risk import PENALTY, CodeRisk
from phantom_films import FILMED, HORIZONS, Films, baselines, both_banks, every_visit, take_films
from phantom_measures import Models
from phantom_tables import distance_table, tables
from torch import Tensor

from progression.data.phantom import VISIT_MONTHS, sample_knee
from progression.files import atomic_write
from progression.latent.bank import TrajectoryBank
from progression.latent.part import EncoderPart, encode_keys, from_bytes, load_generator
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader, Grading
from progression.risk.model import RiskModel
from progression.train.checkpoint import load_checkpoint, save_checkpoint
from progression.train.gan import GanConfig, train_gan
from progression.train.grader import GraderConfig, train_grader
from progression.train.joint import train_joint
from progression.train.joint_trainer import JointConfig
from progression.train.risk import RiskConfig, load_out_of_fold, train_risk
from progression.weights import load_model, save_part

CHUNK = 100
GRADER_STAGES = (Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 4, 32), Stage(2, 3, 2, 4, 64), Stage(1, 3, 2, 4, 96))
GAN = GanConfig(
    resolution=64, total_kimg=16, channel_base=1024, channel_max=64, r1_gamma=0.2, path_interval=0
)
JOINT = JointConfig(kimg=24, batch=16, shift=4, adversarial=0.3, pyramid=100, pixel=500, maps=1, grade=0.1)


@dataclass(frozen=True)
class Plan:
    """Sizes of a run. `train`, `val`, `test`, `more`: subjects (`more` are test subjects with a baseline film only).

    `seed`: of the cohort. Not 0, whose subjects were looked at while the simulator was made, and not 1, on which
    earlier versions ran. `lpips`: whether distances are measured by it too.
    """

    train: int = 3000
    val: int = 160
    test: int = 320
    more: int = 1100
    resolution: int = 64
    grader_epochs: int = 20
    gan: GanConfig = GAN
    joint: JointConfig = JOINT
    seed: int = 2
    lpips: bool = True


REPEAT = Plan(
    train=1500,
    val=120,
    grader_epochs=16,
    gan=replace(GAN, total_kimg=8),
    joint=replace(JOINT, kimg=12),
    seed=4,
    lpips=False,
)


# ---- stages: each leaves files, and does nothing where they are ------------------------------------------------


def make_films(work: Path, plan: Plan) -> None:
    """Compute the films, in chunks."""
    wanted = {"train": plan.train, "val": plan.val, "test": plan.test, "more": plan.more}
    found: dict[str, list[int]] = {name: [] for name in wanted}
    index = 0
    while any(len(found[name]) < count for name, count in wanted.items()):
        split = sample_knee(index, seed=plan.seed).split
        split = "more" if split == "test" and len(found["test"]) == plan.test else split
        if len(found[split]) < wanted[split]:
            found[split].append(index)
        index += 1
    visits = [VISIT_MONTHS.index(month) for month in HORIZONS]
    follow_up = [(visit, None) for visit in visits] + [(0, month) for month in HORIZONS]
    films = {"train": [(visit, None) for visit in FILMED], "more": [(0, None)]}
    for split, subjects in found.items():
        for number, start in enumerate(range(0, len(subjects), CHUNK)):
            path = work / "films" / f"{split}-{number:03d}.pt"
            if not path.exists():
                shown = films.get(split, [(0, None), *follow_up])
                save_checkpoint(path, vars(_films(subjects[start : start + CHUNK], shown, plan)))


def _films(subjects: Sequence[int], shown: Sequence[tuple[int, float | None]], plan: Plan) -> Films:
    return take_films(subjects, shown, seed=plan.seed, resolution=plan.resolution)


def make_grader(work: Path, plan: Plan) -> None:
    """The grader and the risk model of the training subjects."""
    if not (work / "grader" / "manifest.json").exists():
        train_both(load_films(work, "train"), work / "grader", run=work / "grader-run", plan=plan)


def train_both(films: Films, folder: Path, *, run: Path, plan: Plan) -> None:
    """Three cross-fitted networks on all films, and the multi-state model on their out-of-fold baselines."""
    knees = every_visit(films)
    resolutions = (plan.resolution,) * plan.grader_epochs
    config = GraderConfig(
        folds=3,
        resolutions=resolutions,
        batch_size=min(64, len(knees) // 4),
        learning_rate=3e-3,
        frozen_blocks=0,
    )

    def start() -> EfficientNet:
        return EfficientNet(
            1, NUM_OUTPUTS, stem_width=24, head_width=192, stages=GRADER_STAGES, drop_path=0.0
        )

    grader = train_grader(knees, run, config=config, start=start)
    fixed = RiskConfig(penalties=(PENALTY,))
    risk = train_risk(baselines(films), out_of_fold(films, run), config=fixed)
    save_part(folder, "risk", risk.tensors(), risk.config(), dtype="float32", resolution=plan.resolution)
    save_part(folder, "grader", grader.state_dict(), grader.config(), dtype="float32")


def make_start(work: Path, plan: Plan) -> None:
    """A plain StyleGAN2 of the training subjects' films at all visits, beside the grader."""
    if (work / "start" / "manifest.json").exists():
        return
    folder = train_gan(load_films(work, "train").images.flatten(0, 1), work / "gan", config=plan.gan)
    grader = load_model(work / "grader")
    for files, part in ((grader, "grader"), (load_model(folder), "generator")):
        tensors, shape = files.tensors(part), files.config(part)
        save_part(work / "start", part, tensors, shape, dtype="float32", resolution=plan.resolution)


def make_model(work: Path, plan: Plan) -> None:
    """Generator and encoder trained together, with the grader's first network as the judge's eyes."""
    if (work / "model" / "manifest.json").exists():
        return
    films, heldout = load_films(work, "train").images.flatten(0, 1), load_films(work, "val").images[:, 0]
    start = load_model(work / "start")
    train_joint(start, films, heldout, run=work / "joint", save=work / "model", config=plan.joint)


def make_banks(work: Path, plan: Plan) -> None:
    """`imaged` from first and last films, `graded` from the first film and all grades, of training subjects."""
    if all((work / f"bank-{kind}" / "manifest.json").exists() for kind in measures.KINDS):
        return
    films = load_films(work, "train")
    encoder = EncoderPart.load(load_model(work / "model")).encoder
    first, last = (encode_keys(encoder, films.images[:, visit]) for visit in (0, -1))
    for kind, bank in both_banks(films, first, last).items():
        bank.save(work / f"bank-{kind}", dtype="float32", resolution=plan.resolution)


def make_codes(work: Path, plan: Plan) -> None:
    """The encoder's code, one w a film, of all films of subjects not trained on."""
    encoder = EncoderPart.load(load_model(work / "model")).encoder
    for split in ("val", "test", "more"):
        path = work / "codes" / f"{split}.pt"
        if not path.exists():
            films = load_films(work, split).images.unbind(1)
            save_checkpoint(path, {"key": torch.stack([encode_keys(encoder, film) for film in films], dim=1)})


@torch.no_grad()
def make_validation(work: Path, plan: Plan) -> None:
    """Choose k and scale, and measure every method, on validation subjects."""
    path = work / "validation.json"
    if path.exists():
        return
    models, films, key = load_models(work), load_films(work, "val"), load_codes(work, "val")
    chosen = measures.choose(models, films, key)
    offsets = measures.all_offsets(models, films, key, chosen)
    metrics = {"grader": models.unseen.features}
    distances = measures.all_distances(models, films, key, offsets, metrics=metrics)
    found = {
        "chosen": chosen,
        "shrinkage": {kind: steps.shrinkage for kind, steps in models.steps.items()},
        "grader": measures.grading_quality(models, films.images[:, 0], films.grade[:, 0], key[:, 0]),
        "comparisons": measures.all_comparisons(distances, films),
        "attenuation": measures.attenuation(models, films, key, offsets),
        "risk": phantom_risks.risks(models, load_films(work, "train"), [films], [key]),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    print(distance_table(found, months=96.0, group="all"))


def make_later_films(work: Path, plan: Plan) -> None:
    """The last visit's films of the test subjects whose baseline alone was filmed."""
    for path in sorted((work / "films").glob("more-*.pt")):
        out = work / "later" / path.name
        if not out.exists():
            subjects = load_checkpoint(path)["subject"].tolist()
            last = [(len(VISIT_MONTHS) - 1, None)]
            save_checkpoint(out, {"images": _films(subjects, last, plan).images[:, 0]})


@torch.no_grad()
def make_confirmation(work: Path, plan: Plan) -> None:
    """The primary comparisons on the test subjects whose baseline alone was filmed before."""
    path = work / "confirmation.json"
    if path.exists():
        return
    make_later_films(work, plan)
    later = torch.cat([load_checkpoint(part)["images"] for part in sorted((work / "later").glob("*.pt"))])
    films, key = load_films(work, "more"), load_codes(work, "more")[:, 0]
    chosen = json.loads((work / "validation.json").read_text())["chosen"]
    models = load_models(work)
    grading = models.grading(from_bytes(films.images[:, 0]))
    offsets = measures.primary_offsets(models, grading, key, chosen)
    found = measures.confirmation(models, films, later, key, offsets)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1))


STAGES: dict[str, Callable[[Path, Plan], None]] = {
    "films": make_films,
    "grader": make_grader,
    "gan": make_start,
    "joint": make_model,
    "banks": make_banks,
    "codes": make_codes,
    "validation": make_validation,
    "confirmation": make_confirmation,
}


# ---- reading back what stages left -----------------------------------------------------------------------------


def load_films(work: Path, split: str) -> Films:
    """All films of a split."""
    chunks = [load_checkpoint(path) for path in sorted((work / "films").glob(f"{split}-*.pt"))]
    return Films(**{name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})


def load_codes(work: Path, split: str) -> Tensor:
    """Codes (N, F, D) of a split."""
    key: Tensor = load_checkpoint(work / "codes" / f"{split}.pt")["key"]
    return key


def out_of_fold(films: Films, run: Path) -> Grading:
    """Gradings of training subjects' baseline films by the networks of `run` that did not train on them."""
    knees = every_visit(films)
    grading = load_out_of_fold(run / "out_of_fold.npz", knees)
    return grading.rows(torch.arange(0, len(knees), len(FILMED)))


def load_models(work: Path) -> Models:
    """All that was trained and built."""
    files = load_model(work / "grader")
    risk = RiskModel.from_tensors(files.tensors("risk"), files.config("risk"))
    banks = {kind: TrajectoryBank.load(load_model(work / f"bank-{kind}")) for kind in measures.KINDS}
    return Models(
        generator=load_generator(load_model(work / "model")),
        grader=Grader.from_tensors(files.tensors("grader"), files.config("grader")),
        risk=risk,
        code_risk=CodeRisk.of_bank(
            risk, banks["graded"], out_of_fold(load_films(work, "train"), work / "grader-run")
        ),
        banks=banks,
    )


@torch.no_grad()
def measure(work: Path, models: Models, plan: Plan) -> dict[str, Any]:
    """Everything on test subjects, for JSON."""
    found = json.loads((work / "validation.json").read_text())
    films = {split: load_films(work, split) for split in ("train", "val", "test", "more")}
    parts, key = [films["test"], films["more"]], [load_codes(work, split) for split in ("test", "more")]
    offsets = measures.all_offsets(models, films["test"], key[0], found["chosen"])
    metrics = measures.all_metrics(models, lpips=plan.lpips)
    distances = measures.all_distances(models, films["test"], key[0], offsets, metrics=metrics)
    comparisons = measures.all_comparisons(distances, films["test"])
    images, grade = (torch.cat([getattr(part, name)[:, 0] for part in parts]) for name in ("images", "grade"))
    return {
        "subjects": {name: len(part.subject) for name, part in films.items()},
        "grader": measures.grading_quality(models, images, grade, torch.cat([k[:, 0] for k in key])),
        "reconstruction": measures.reconstruction(models, films["test"], key[0][:, 0]),
        "chosen": found["chosen"],
        "shrinkage": found["shrinkage"],
        "primary": measures.primary(comparisons),
        "every_horizon": measures.primary(comparisons, months=HORIZONS),
        "confirmation": json.loads((work / "confirmation.json").read_text()),
        "comparisons": comparisons,
        "attenuation": measures.attenuation(models, films["test"], key[0], offsets),
        "risk": phantom_risks.risks(models, films["train"], parts, key),
    }


def run(work: Path, plan: Plan, *, stages: Sequence[str] = tuple(STAGES)) -> dict[str, Any]:
    """Bring the stages to their end, then measure; returns what result.json holds (empty for part of the stages)."""
    work.mkdir(parents=True, exist_ok=True)
    clock = work / "seconds.json"
    for name in stages:
        start = time.monotonic()
        STAGES[name](work, plan)
        spent = json.loads(clock.read_text()) if clock.exists() else {}
        spent[name] = round(spent.get(name, 0) + time.monotonic() - start, 1)
        clock.write_text(json.dumps(spent))
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    if tuple(stages) != tuple(STAGES):
        return {}
    found = measure(work, load_models(work), plan)
    result = {"plan": asdict(plan), "seconds": json.loads(clock.read_text())} | found
    with atomic_write(work / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of everything that the run leaves")
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="only these stages")
    parser.add_argument("--repeat", action="store_true", help="the smaller run, on another cohort")
    parser.add_argument("--gan-kimg", type=float, help="of the plain generator's training")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = REPEAT if options.repeat else Plan()
    if options.gan_kimg is not None:
        plan = replace(plan, gan=replace(plan.gan, total_kimg=options.gan_kimg))
    result = run(options.work, plan, stages=options.stage or tuple(STAGES))
    if result:
        print(tables(result))


if __name__ == "__main__":
    main()
