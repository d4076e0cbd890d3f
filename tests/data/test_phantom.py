"""The phantom cohort: anatomy, disease, grades, films, files."""

import io
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from progression.data.phantom import VISIT_MONTHS, calibration, grade, sample_knee, write_cohort
from progression.data.phantom.anatomy import (
    JointState,
    Signs,
    Sites,
    diseased_outlines,
    healthy_outlines,
    sample_anatomy,
)
from progression.data.phantom.cohort import MARK, PhantomKnee, encode_png
from progression.data.phantom.disease import VISIBLE_SHARE, rise_chance, sample_course
from progression.data.phantom.geometry import JOINT_LINE, Knee, Pose
from progression.data.visits import read_visits
from progression.errors import UsageError
from progression.image import read_image
from progression.types import FIELD_MM, Side

HEALTHY = JointState(4.5, 5.5)


def _spurs(length: float) -> Sites:
    return Sites(length, 0.0, 0.0, 0.0)


# -- grades --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (JointState(4.5, 5.5), 0),
        (JointState(4.5, 5.5, _spurs(0.69)), 0),
        (JointState(4.5, 5.5, _spurs(0.7)), 1),
        (JointState(4.5, 5.5, _spurs(1.6)), 2),
        (JointState(4.5, 5.5, Sites(0.0, 0.0, 0.0, 1.6)), 2),
        (JointState(2.0, 5.5, _spurs(0.7)), 1),
        (JointState(3.0, 5.5, _spurs(1.6)), 3),
        (JointState(4.5, 2.9, _spurs(1.6)), 3),
        (JointState(1.0, 5.5, _spurs(3.5)), 3),
        (JointState(1.0, 5.5, _spurs(3.5), 0.5, 0.0), 4),
        (JointState(1.3, 5.5, _spurs(6.0), 0.9, 0.0), 3),
        (JointState(5.5, 0.3, _spurs(6.0), 0.0, 0.9, 2.0), 4),
    ],
)
def test_grade_follows_the_rules(state: JointState, expected: int) -> None:
    assert grade(state) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_disease_never_recedes(index: int) -> None:
    course = sample_course(np.random.default_rng(index))
    states = [course.state(months) for months in np.linspace(0, 96, 33)]
    assert all(np.diff([grade(state) for state in states]) >= 0)
    for falls in ("medial_space_mm", "lateral_space_mm"):
        assert np.all(np.diff([getattr(state, falls) for state in states]) <= 1e-9)
    for rises in ("medial_sclerosis", "lateral_sclerosis", "attrition_mm"):
        assert np.all(np.diff([getattr(state, rises) for state in states]) >= -1e-9)
    assert np.all(np.diff([state.osteophyte_mm for state in states], axis=0) >= -1e-9)
    assert min(min(state.medial_space_mm, state.lateral_space_mm) for state in states) > 0


def test_the_grade_is_the_whole_part_of_severity() -> None:
    courses = [sample_course(np.random.default_rng(index)) for index in range(500)]
    severities = [(course, course.severity_at(months)) for course in courses for months in VISIT_MONTHS]
    assert all(
        grade(course.state(months)) == min(int(severity), 4)
        for (course, severity), months in zip(severities, VISIT_MONTHS * len(courses), strict=True)
    )


# -- calibration ---------------------------------------------------------------------------------------


def test_grades_and_rises_match_the_real_cohort() -> None:
    table = calibration(3000)
    off = np.maximum(table["real_low"] - table["phantom"], table["phantom"] - table["real_high"])
    assert off.max() < 0.02, table.to_string()


def test_the_real_shares_are_those_of_the_training_knees(shared: Path) -> None:
    table = pd.read_csv(shared / "data" / "knees" / "train.csv")
    months = [0, 12, 24, 36, 48, 72, 96]
    grades = table[[f"kl_m{month:02d}" for month in months]].to_numpy(float)
    first = grades[:, 0]
    low = {row["aggregate"]: row["real_low"] for _, row in calibration(50).iterrows()}
    for value in range(5):
        assert np.mean(first == value) == pytest.approx(low[f"baseline grade {value}"], abs=6e-4)
    for horizon in (24, 48, 96):
        later = grades[:, 1 : months.index(horizon) + 1]
        read = ~np.isnan(later).all(axis=1)
        highest = np.nanmax(np.where(np.isnan(later), -1, later), axis=1)
        for name, most, least in (("any", 3, 1), ("fast", 2, 2)):
            at_risk = read & (first <= most)
            share = np.mean((highest - first)[at_risk] >= least)
            assert share == pytest.approx(low[f"{name} rise by {horizon} months"], abs=6e-4)


def test_the_rate_is_visible_in_part() -> None:
    """log r correlates with what the baseline film shows as strongly as stated, not more."""
    courses = [sample_course(np.random.default_rng(index)) for index in range(1500)]
    second = [course for course in courses if int(course.severity) == 2]
    visible = [course.signs.visible for course in second]
    log_rate = np.log([course.rate for course in second])
    assert np.corrcoef(visible, log_rate)[0, 1] == pytest.approx(np.sqrt(VISIBLE_SHARE), abs=0.08)


def test_the_baseline_shows_the_rate() -> None:
    """Measured in the shadows: bone denser under the joint and a stouter leg go with faster grade-2 knees."""
    stout, dense, rates, index = [], [], [], 0
    pixel, joint = 64 / FIELD_MM, round(JOINT_LINE * 64)
    while len(rates) < 60:
        knee = sample_knee(index, seed=5)
        index += 1
        if knee.grade(0) != 2:
            continue
        shadow = Knee(knee.anatomy).project(knee.state(0), Pose(), 64)
        stout.append(shadow.soft.mean())
        under = shadow.trabecular[joint + round(4 * pixel) : joint + round(10 * pixel), 16:48].mean()
        dense.append(under / shadow.trabecular[-round(10 * pixel) :, 24:40].mean())
        rates.append(np.log(knee.course.rate))
    signs = sum((np.array(sign) - np.mean(sign)) / np.std(sign) for sign in (stout, dense))
    assert np.corrcoef(signs, rates)[0, 1] > 0.25


@pytest.mark.parametrize("sign", Signs._fields)
def test_signs_are_wide_enough_for_64_pixels(sign: str) -> None:
    """What a sign changes in the shadow is there at half that resolution too."""
    high, low = (
        Knee(sample_anatomy(np.random.default_rng(3), signs=Signs(**{sign: size})))
        .project(HEALTHY, Pose(), 64)
        .attenuation()
        for size in (1.5, -1.5)
    )
    change = high - low
    assert np.abs(change.reshape(32, 2, 32, 2).mean(axis=(1, 3))).max() > 0.1


def test_the_chance_of_a_rise_is_how_often_it_happens() -> None:
    """Among subjects of small, middling and large chances as many rise as these say."""
    courses = [sample_course(np.random.default_rng([11, index])) for index in range(4000)]
    for step, months in ((1, 24.0), (1, 96.0), (2, 48.0), (2, 96.0)):
        chance = np.array([rise_chance(course, step=step, months=months) for course in courses])
        rose = np.array([
            grade(course.state(months)) - grade(course.state(0.0)) >= step for course in courses
        ])  # fmt: skip
        for rows in (chance < 0.05, (chance >= 0.05) & (chance < 0.3), chance >= 0.3):
            error = np.sqrt((chance[rows] * (1 - chance[rows])).sum())
            assert abs(rose[rows].sum() - chance[rows].sum()) < 3.5 * error
    assert rise_chance(replace(courses[0], severity=3.5), step=2, months=96.0) == 0.0


def test_malalignment_loads_the_compartment_that_narrows() -> None:
    """Varus turns the shafts apart on the lateral side, valgus on the medial."""
    for medial, towards in ((True, 1), (False, -1)):
        straight, bent = (
            sample_anatomy(np.random.default_rng(1), signs=Signs(malalignment=size), medial=medial)
            for size in (0.0, 2.0)
        )
        assert towards * (bent.tibia_axis_deg - straight.tibia_axis_deg) > 1
        assert towards * (bent.femur_axis_deg - straight.femur_axis_deg) < -1


# -- geometry ------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 7.0), st.floats(0.3, 7.0))
def test_joint_spaces_are_as_stated(seed: int, medial: float, lateral: float) -> None:
    anatomy = sample_anatomy(np.random.default_rng(seed))
    state = JointState(medial, lateral, Sites(3.0, 1.0, 2.0, 1.0), attrition_mm=1.5)
    shape = diseased_outlines(healthy_outlines(anatomy), state, size=anatomy.size)
    assert shape.spaces_mm() == pytest.approx((medial, lateral), abs=0.05)


def test_the_gap_in_the_picture_is_the_joint_space() -> None:
    knee = Knee(sample_anatomy(np.random.default_rng(3)))
    pixel = 256 / FIELD_MM
    joint = round(JOINT_LINE * 256)
    rows = slice(joint - round(14 * pixel), joint + round(4 * pixel))
    columns = slice(128 + round(16 * pixel), 128 + round(29 * pixel))
    gaps = []
    for space in (2.0, 4.0, 6.0):
        projection = knee.project(JointState(space, 5.0), Pose(), 256)
        bone = (projection.trabecular + projection.cortical)[rows, columns]
        gaps.append(np.sum(bone < 1.0, axis=0).min() / pixel)
    assert gaps == pytest.approx([2.0, 4.0, 6.0], abs=0.7)


def test_anatomy_away_from_the_joint_is_constant_over_visits() -> None:
    knee = Knee(sample_anatomy(np.random.default_rng(4)))
    worn = JointState(1.0, 5.0, Sites(4.0, 2.0, 4.0, 2.0), 0.7, 0.1, 1.0)
    before, after = (knee.project(state, Pose(), 128) for state in (HEALTHY, worn))
    shaft = slice(round((JOINT_LINE + 22 / FIELD_MM) * 128), 128)
    assert np.allclose(before.trabecular[shaft], after.trabecular[shaft], rtol=0.02, atol=0.3)
    changed = np.abs(before.attenuation() - after.attenuation())
    joint = round(JOINT_LINE * 128)
    assert changed[joint - 12 : joint + 8].mean() > 5 * changed[shaft].mean()


def test_spurs_lengthen_the_plateau_by_their_length() -> None:
    anatomy = sample_anatomy(np.random.default_rng(5))
    healthy = healthy_outlines(anatomy)
    spurred = diseased_outlines(healthy, JointState(4.0, 5.0, Sites(0.0, 0.0, 3.0, 0.0)), size=anatomy.size)
    longer = spurred.tibia_medial - healthy.tibia_medial
    assert longer.max() == pytest.approx(3.0, abs=0.01)
    assert np.array_equal(spurred.tibia_lateral, healthy.tibia_lateral)


def test_path_lengths_are_physical() -> None:
    projection = Knee(sample_anatomy(np.random.default_rng(6))).project(HEALTHY, Pose(), 128)
    for part in (projection.soft, projection.trabecular, projection.cortical):
        assert part.dtype == np.float32 and part.shape == (128, 128)
        assert np.isfinite(part).all() and part.min() >= 0 and part.max() < 160
    light = np.exp(-projection.attenuation())
    assert light.min() > 0 and light.max() <= 1


def test_the_fibula_is_at_the_left_edge_of_a_right_knee() -> None:
    bone = np.mean([
        Knee(sample_anatomy(np.random.default_rng(seed))).project(HEALTHY, Pose(), 64).trabecular
        for seed in range(6)
    ], axis=0)  # fmt: skip
    assert bone[58:, :8].mean() > bone[58:, -8:].mean() + 1


# -- films ---------------------------------------------------------------------------------------------


def test_a_subject_does_not_depend_on_the_cohort(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    write_cohort(small, subjects=1, seed=3, resolution=64, visits=(0, 4))
    write_cohort(large, subjects=3, seed=3, resolution=64, visits=(0, 4))
    with zipfile.ZipFile(small / "images.zip") as one, zipfile.ZipFile(large / "images.zip") as three:
        assert len(one.namelist()) == 2 and len(three.namelist()) == 6
        assert all(one.read(name) == three.read(name) for name in one.namelist())


def test_the_same_seed_gives_the_same_cohort_and_another_another() -> None:
    assert np.array_equal(sample_knee(7, seed=1).image(2), sample_knee(7, seed=1).image(2))
    assert not np.array_equal(sample_knee(7, seed=1).image(2), sample_knee(7, seed=2).image(2))


def test_films_of_one_knee_differ_without_disease() -> None:
    knee = sample_knee(11)
    pictures = [knee.image(visit, resolution=64, months=0.0) for visit in range(len(VISIT_MONTHS))]
    assert len({film.pose for film in knee.films}) == len(VISIT_MONTHS)
    assert min(np.abs(pictures[0] - other).mean() for other in pictures[1:]) > 0.002


def _upright(knee: PhantomKnee, visit: int) -> np.ndarray:
    picture = knee.image(visit, resolution=64)
    return (picture[:, ::-1] if knee.side is Side.LEFT else picture).ravel()


def test_visits_of_one_knee_are_more_alike_than_knees() -> None:
    knees = [sample_knee(index) for index in range(8)]
    first, later = (np.array([_upright(knee, visit) for knee in knees]) for visit in (0, 1))
    alike = np.corrcoef(first, later)[:8, 8:]
    assert np.mean(alike.argmax(axis=1) == np.arange(8)) >= 0.75


def test_left_knees_are_mirrored_right_knees() -> None:
    knee = sample_knee(2)
    left, right = replace(knee, side=Side.LEFT), replace(knee, side=Side.RIGHT)
    assert np.array_equal(left.image(0)[:, ::-1], right.image(0))
    assert {sample_knee(index).side for index in range(20)} == {Side.LEFT, Side.RIGHT}


def test_pictures_use_the_grey_range() -> None:
    for index in range(5):
        picture = sample_knee(index).image(0, resolution=96)
        assert picture.dtype == np.float32 and picture.min() >= 0 and picture.max() <= 1
        assert picture.max() - picture.min() > 0.6


def test_a_film_takes_little_time() -> None:
    knee = sample_knee(1)
    knee.image(0, resolution=128)
    start = time.process_time()
    for visit in range(5):
        knee.image(visit, resolution=128)
    assert (time.process_time() - start) / 5 < 0.25


# -- files ---------------------------------------------------------------------------------------------


def test_the_cohort_reads_back_through_the_package(tmp_path: Path) -> None:
    path = write_cohort(tmp_path / "cohort", subjects=2, seed=1, resolution=64)
    table = read_visits(path)
    assert len(table) == 2 * len(VISIT_MONTHS)
    assert list(table["months"].unique()) == list(VISIT_MONTHS)
    assert set(table["subject"]) == {"P00001", "P00002"}
    knee = sample_knee(1, seed=1)
    rows = table[table["subject"] == "P00002"]
    assert list(rows["grade"]) == [knee.grade(visit) for visit in range(len(VISIT_MONTHS))]
    assert (rows["side"] == knee.side.value).all()
    stored = read_image(f"{tmp_path / 'cohort'}/{rows['image'].iloc[3]}")
    assert np.abs(stored - knee.image(3, resolution=64)).max() <= 0.5 / 255 + 1e-6


def test_every_picture_says_that_it_is_synthetic(tmp_path: Path) -> None:
    write_cohort(tmp_path, subjects=1, resolution=64, visits=(0, 6))
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        for name in archive.namelist():
            picture = Image.open(io.BytesIO(archive.read(name)))
            assert picture.mode == "L" and picture.info["Description"] == MARK
    assert "SYNTHETIC" in MARK
    assert b"SYNTHETIC" in encode_png(np.zeros((4, 4), dtype=np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"subjects": 0}, "expected 1 to"), ({"subjects": 1, "resolution": 8}, "expected 64 to")],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_cohort(tmp_path, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="expected whole numbers from 0"):
        sample_knee(-1)
