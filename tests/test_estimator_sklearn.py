"""FewShotClassifier inside scikit-learn: parameters, clones, searches, ensembles, copies, scikit-learn's own checks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted

from blocklora import BlockloraError, ConfigError, FewShotClassifier
from blocklora.methods import METHODS


@pytest.fixture(scope="module")
def data(photos: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(photos.glob("*/*.png"))
    return np.array([str(path) for path in paths]), np.array([path.parent.name for path in paths])


@pytest.fixture(scope="module")
def new(clip_folder: Path) -> Callable[..., FewShotClassifier]:
    def make(method: str = "zero-shot", **more: Any) -> FewShotClassifier:
        return FewShotClassifier(model=str(clip_folder), method=method, device="cpu", **more)

    return make


# ---- parameters


def test_parameters_and_options_are_read_set_and_cloned() -> None:
    classifier = FewShotClassifier(method="linear-probe", shots=4, c=1.0)
    assert is_classifier(classifier)
    assert classifier.get_params()["c"] == 1.0
    assert "max_iterations" not in classifier.get_params()  # only the options that were given
    twin = clone(classifier)
    assert twin.get_params() == classifier.get_params()
    assert twin.set_params(c=2.0, seed=3) is twin
    assert (twin.get_params()["c"], twin.seed, twin.get_params()["shots"]) == (2.0, 3, 4)
    assert classifier.get_params()["c"] == 1.0
    assert clone(twin.set_params(max_iterations=7)).get_params()["max_iterations"] == 7
    assert repr(classifier) == "FewShotClassifier(c=1.0, method='linear-probe', shots=4)"
    assert "linear-probe" in classifier._repr_html_()


def test_parameters_that_nothing_has_are_refused_at_once() -> None:
    classifier = FewShotClassifier()
    with pytest.raises(
        ConfigError, match=r"unknown parameter 'lerning_rate': expected class_names, .* method"
    ):
        classifier.set_params(lerning_rate=1)
    with pytest.raises(ConfigError, match=r"unknown parameter 'sede'.*did you mean 'seed'"):
        classifier.set_params(seed=4, sede=3)
    assert classifier.seed == 0  # all or nothing
    with pytest.raises(ConfigError, match="unknown option 'rank': expected some of iterations, "):
        FewShotClassifier(rank=3)
    with pytest.raises(
        ConfigError, match="method 'magic': expected one of block-lora, block-lora-gda, auto, clip-lora, "
    ):
        FewShotClassifier(method="magic")


def test_options_of_another_method_are_named_by_fit(
    new: Callable[..., FewShotClassifier], data: tuple[np.ndarray, np.ndarray]
) -> None:
    classifier = new("linear-probe", c=1.0).set_params(method="tip-adapter")
    with pytest.raises(
        ConfigError, match=r"unknown option 'c': expected some of .* \(the options of tip-adapter\)"
    ):
        classifier.fit(*data)
    classifier = new().set_params(method="magic")
    with pytest.raises(ConfigError, match="method 'magic': expected one of block-lora"):
        classifier.fit(*data)


def test_options_of_a_method_of_ones_own_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mine", METHODS["linear-probe"])
    assert clone(FewShotClassifier(method="mine").set_params(c=3.0)).get_params()["c"] == 3.0


def test_not_fitted_is_an_error_of_both_worlds() -> None:
    classifier = FewShotClassifier()
    for ask in (
        classifier.predict,
        classifier.predict_proba,
        lambda x: classifier.score(x, ["a"]),
        classifier.save,
    ):
        for kind in (NotFittedError, BlockloraError):
            with pytest.raises(
                kind, match=r"not fitted yet; call fit\(images, labels\) or load\(path\) first"
            ):
                ask(["a.png"])
    with pytest.raises(NotFittedError):
        check_is_fitted(classifier)
    assert not hasattr(classifier, "temperature_")


# ---- scikit-learn's tools, on arrays of paths


def test_cross_validation(new: Callable[..., FewShotClassifier], data: tuple[np.ndarray, np.ndarray]) -> None:
    scores = cross_val_score(new("linear-probe", c=10.0), *data, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.6
    assert cross_val_score(new(), *data, cv=2, scoring="neg_log_loss").shape == (2,)
    assert cross_val_predict(new(), *data, cv=2, method="predict_proba").shape == (36, 3)


@pytest.mark.parametrize(
    ("method", "grid"),
    [
        ("zero-shot", {"shots": np.arange(1, 3), "seed": np.arange(2)}),
        ("linear-probe", {"c": np.float32([0.1, 10]), "max_iterations": np.array([50])}),
        ("block-lora", {"lr": [1e-3, 1e-2], "iterations": [2]}),
        (
            "zero-shot",
            [{"method": ["linear-probe"], "c": [1.0]}, {"method": ["block-lora"], "iterations": [1]}],
        ),
    ],
)
def test_grid_search(
    new: Callable[..., FewShotClassifier], data: tuple[np.ndarray, np.ndarray], method: str, grid: Any
) -> None:
    search = GridSearchCV(new(method), grid, cv=2, error_score="raise").fit(*data)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_.get_params()
    assert {name: best[name] for name in search.best_params_} == search.best_params_
    assert search.predict(data[0]).tolist() == search.best_estimator_.predict(data[0]).tolist()


def test_other_processes(new: Callable[..., FewShotClassifier], data: tuple[np.ndarray, np.ndarray]) -> None:
    alone = cross_val_score(new(), *data, cv=2)
    assert cross_val_score(new(), *data, cv=2, n_jobs=2).tolist() == alone.tolist()


def test_pipelines(new: Callable[..., FewShotClassifier], data: tuple[np.ndarray, np.ndarray]) -> None:
    opened = FunctionTransformer(lambda paths: [Image.open(path) for path in paths])
    pipeline = make_pipeline(opened, new()).fit(*data)
    assert pipeline.predict(data[0]).tolist() == new().fit(*data).predict(data[0]).tolist()
    assert clone(pipeline).set_params(fewshotclassifier__seed=3)[-1].seed == 3


def test_calibration(new: Callable[..., FewShotClassifier], data: tuple[np.ndarray, np.ndarray]) -> None:
    calibrated = CalibratedClassifierCV(new(), cv=2, ensemble=False).fit(*data)
    np.testing.assert_allclose(calibrated.predict_proba(data[0]).sum(axis=1), 1)


def test_voting(new: Callable[..., FewShotClassifier], data: tuple[np.ndarray, np.ndarray]) -> None:
    words = dict(enumerate(np.unique(data[1])))  # VotingClassifier gives its voters labels 0, 1, 2
    voters = [("a", new("linear-probe", c=1.0, class_names=words)), ("b", new(class_names=words))]
    vote = VotingClassifier(voters, voting="soft").fit(*data)
    each = [new("linear-probe", c=1.0).fit(*data), new().fit(*data)]
    mean = np.mean([one.predict_proba(data[0]) for one in each], axis=0)
    np.testing.assert_allclose(vote.predict_proba(data[0]), mean, rtol=1e-6)
    assert set(vote.predict(data[0])) <= set(data[1])


@pytest.mark.parametrize("method", ["block-lora", "full", "cocoop", "linear-probe"])
def test_copies_of_a_fitted_one(
    new: Callable[..., FewShotClassifier], data: tuple[np.ndarray, np.ndarray], method: str
) -> None:
    more: dict[str, Any] = {"linear-probe": {}, "cocoop": {"epochs": 1}}.get(
        method, {"iterations": 1, "lr": 1e-2}
    )
    classifier = new(method, shots=1, **more).fit(*data)
    expected = classifier.predict_proba(data[0])
    for twin in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier)), copy.copy(classifier)):
        np.testing.assert_array_equal(twin.predict_proba(data[0]), expected)
        assert twin.get_params() == classifier.get_params()
    twin.set_params(lr=5.0) if method != "linear-probe" else twin.set_params(c=5.0)
    assert 5.0 not in classifier.get_params().values()  # not even a shallow copy shares the options


# ---- scikit-learn's own checks

# Checks that fail, each with the reason why it cannot apply to images.
COLUMNS = "an image has no columns to count: images of any size may follow one another"
SPARSE = "an image is no sparse matrix, and is refused as every other object that is no image"
VALUES = "complex, missing and infinite values are refused by source_of, which names the image; see test_data_given"
WORDS = "refused with a DataError that names the label; the check wants scikit-learn's own words"
FAILS = {
    "check_do_not_raise_errors_in_init_or_set_params": "a wrong option is named where it is written",
    "check_n_features_in_after_fitting": COLUMNS,
    "check_n_features_in": COLUMNS,
    "check_estimators_empty_data_messages": COLUMNS,
    "check_classifiers_train": COLUMNS,
    "check_classifiers_train(readonly_memmap=True)": COLUMNS,
    "check_classifiers_train(readonly_memmap=True, X_dtype=float32)": COLUMNS,
    "check_fit2d_predict1d": "one image in the place of a list is refused in our words; see test_data_given",
    "check_estimator_sparse_tag": SPARSE,
    "check_estimator_sparse_array": SPARSE,
    "check_estimator_sparse_matrix": SPARSE,
    "check_complex_data": VALUES,
    "check_estimators_nan_inf": VALUES,
    "check_classifier_data_not_an_array": "labels are a list, series or array: what can be gone through",
    "check_classifiers_regression_target": WORDS,
    "check_requires_y_none": WORDS,
    "check_supervised_y_2d": "a column of labels is taken without a warning",
}
OF_THE_MACHINE = {
    "check_array_api_input": "runs only where SCIPY_ARRAY_API is set, and images are no arrays of that kind",
    "check_methods_subset_invariance": "the last bits of an image's feature depend on the batch, by the BLAS at hand",
}


class OnRows(FewShotClassifier):
    """A row of numbers becomes an image, a grey bar a number: scikit-learn's checks know nothing but matrices."""

    def fit(self, X: Any, y: Any) -> OnRows:
        return super().fit(bars(X), y)

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(bars(X))

    def predict(self, X: Any) -> Any:
        return (
            self.classes_[self.predict_proba(X).argmax(axis=1)]
            if hasattr(self, "classes_")
            else super().predict(X)
        )

    def score(self, X: Any, y: Any) -> float:
        return float(np.mean(self.predict(X) == np.asarray(y)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


def bars(rows: Any) -> list[np.ndarray]:
    values = np.asarray(rows, dtype=float)
    grey = np.clip(128 + 16 * values, 0, 255).astype(np.uint8)
    return [np.repeat(row[None], 32, axis=0).repeat(max(1, 32 // max(1, row.size)), axis=1) for row in grey]


def checks() -> dict[str, Callable[[Any], None]]:
    """Return scikit-learn's checks by name."""
    found = {}
    for _, check in estimator_checks_generator(OnRows(model="tiny", method="zero-shot"), legacy=True):
        more = ", ".join(f"{name}={value}" for name, value in check.keywords.items())
        found[check.func.__name__ + (f"({more})" if more else "")] = check
    return found


CHECKS = checks()


@pytest.mark.parametrize("name", [name for name in CHECKS if name.partition("(")[0] not in OF_THE_MACHINE])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_or_cannot_apply(name: str, clip_folder: Path) -> None:
    classifier = OnRows(model=str(clip_folder), method="linear-probe", c=100.0, device="cpu")
    if name in FAILS:
        with pytest.raises((AssertionError, ValueError, AttributeError)):  # one that passes is news
            CHECKS[name](classifier)
    else:
        CHECKS[name](classifier)


def test_the_table_names_checks_that_there_are() -> None:
    assert set(FAILS) <= set(CHECKS)
    assert set(OF_THE_MACHINE) <= {name.partition("(")[0] for name in CHECKS}
