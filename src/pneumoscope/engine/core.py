"""The engine: image files in, predictions out; decoding and the model run at the same time."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from threading import Lock
from typing import Self, TypeAlias

import numpy as np
import onnxruntime as ort

from pneumoscope.contract import Contract, load_contract
from pneumoscope.engine.bundle import CPU, MAPS, MODEL_FILE, Outputs, check_files, model_name, open_model, scaling
from pneumoscope.engine.decision import Rule, Verdict, choose_rule, decide, reject
from pneumoscope.engine.document import Level
from pneumoscope.engine.gate import (
    DISTANCE,
    GATE,
    can_undo,
    find_fault,
    is_not_radiograph,
    mirror_warning,
    undo,
    undone_note,
)
from pneumoscope.engine.prediction import Prediction
from pneumoscope.errors import ImageError, UnsuitableError
from pneumoscope.imaging import DEFAULT_LIMITS, Limits, Luma, Reason, fit, read_for_input, to_input
from pneumoscope.parallel import available_cores, map_ordered

BATCH = 8
_LARGEST_DUPLICATED = 150_000_000  # largest model, in bytes, that may be loaded twice
_WHITE = 255.0


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image file: the name to report it by, and a function that reads its bytes."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedFilm:
    """A decoded image file, ready for the model.

    `image` is the model input, `uint8 [1, S, S]`, or the reason why there is none; `rule` decides on it. `luma` is the
    radiograph, `uint8 [H, W]`, if it was requested for a picture. `doubt` is the reason to reject the file, unless the
    gate finds a more specific one.
    """

    name: str
    rule: Rule
    image: Luma | Reason
    luma: Luma | None
    doubt: Reason | None
    notes: tuple[Reason, ...]
    age_years: float | None
    coloured: float | None
    transparent: float
    milliseconds: float


#: Image files, and the exception that was raised where the next file should have come, if any.
_Group: TypeAlias = tuple[list[ImageFile], Exception | None]


class Engine:
    """A loaded bundle. It is safe to use from several threads, and has no state except the model."""

    def __init__(
        self,
        contract: Contract,
        session: ort.InferenceSession,
        limits: Limits,
        open_single_core: Callable[[], ort.InferenceSession] | None = None,
        *,
        fix_orientation: bool = False,
    ) -> None:
        """`open_single_core` opens a second session, of one thread; without it `session` serves all runs."""
        self.contract = contract
        self.limits = limits
        self.fix_orientation = fix_orientation
        self._session = session
        self._open_single_core, self._opening = open_single_core, Lock()
        self._single_core: ort.InferenceSession | None = None
        self._optional = [*([MAPS] if contract.activation_map else []), *([GATE, DISTANCE] if contract.gate else [])]
        self.model = model_name(contract)
        self._scaling, self._default_rule = scaling(contract), choose_rule(contract)

    @classmethod
    def load(
        cls,
        bundle: Path | str,
        *,
        limits: Limits = DEFAULT_LIMITS,
        threads: int | None = None,
        provider: str = CPU,
        fix_orientation: bool = False,
    ) -> Self:
        """Load a bundle, checking every file against the contract's hash.

        Args:
            bundle: folder made by `pneumoscope export`.
            limits: sizes beyond which a file is rejected before decoding.
            threads: for the model; by default the number of cores that this process may use.
            provider: ONNX Runtime's execution provider by its short name, such as `cpu` or `cuda`.
            fix_orientation: correct faults that the gate recognises, negatives and turns by right angles, before
                deciding.

        Raises:
            BundleError: the bundle is missing or damaged, or the folder is not a bundle.
            UsageError: the provider is not available.
        """
        bundle = Path(bundle)
        contract = load_contract(bundle)
        check_files(contract, bundle)
        threads = threads or available_cores()
        session = open_model(bundle, contract, provider=provider, threads=threads)
        is_duplicated = threads > 1 and provider == CPU and (bundle / MODEL_FILE).stat().st_size < _LARGEST_DUPLICATED

        def open_single_core() -> ort.InferenceSession:
            check_files(contract, bundle)  # the bundle may have been replaced since it was loaded
            return open_model(bundle, contract, provider=provider, threads=1)

        # Threads of `predict_many` each run the model on one core, which a session of all threads cannot do.
        second = open_single_core if is_duplicated else None
        return cls(contract, session, limits, second, fix_orientation=fix_orientation)

    def rule(
        self, *, level: Level = "class", coverage: float | None = None, operating_point: str | None = None
    ) -> Rule:
        """A decision rule for `predict` and `predict_many`; see `choose_rule`.

        Raises:
            UsageError: the model has no such coverage, operating point or groups.
        """
        return choose_rule(self.contract, level=level, coverage=coverage, operating_point=operating_point)

    def predict(self, data: bytes, *, name: str = "", rule: Rule | None = None) -> Prediction:
        """Decide on one image file, given as bytes. Bytes that are not a radiograph are `rejected`.

        Args:
            data: the file's bytes.
            name: the file's name, for the prediction.
            rule: the decision rule; by default level `class` at the contract's coverage.

        Raises:
            TypeError: `data` is not bytes.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"predict takes the bytes of an image file, got {type(data).__name__}; read the file first")
        return next(self.decide([self.decode(ImageFile(name=name, read=lambda: data), rule=rule)]))

    def predict_many(
        self,
        films: Iterable[ImageFile],
        *,
        rule: Rule | None = None,
        picture_side: int | None = None,
        threads: int | None = None,
    ) -> Iterator[Prediction]:
        """Decide on image files in order, with as many threads as `threads` says, by default one per core.

        Threads run ahead by a bounded number of files.

        Each thread decodes some files and runs the model on them on one core (on a single file, such as each of the
        first ones, on all cores). This keeps every core busy: a run on all cores leaves some of them waiting between
        its operators.

        With `picture_side`, a prediction contains the radiograph, shrunk to at most this many pixels on its longest
        side, to draw on without decoding the file again.

        A file that cannot be read or decoded is `rejected`. Any other error of its `read`, or of `films` itself, is
        raised after the predictions of the files before it. Predictions come in batches, the first when some files
        have been read ahead or `films` ends: do not wait for a prediction before you yield the next file.
        """
        predict_group = partial(self._predict_group, rule=rule, picture_side=picture_side)
        cores = threads or available_cores()
        for predictions, failure in map_ordered(predict_group, _groups(films, cores), workers=cores, ahead=2 * cores):
            yield from predictions
            if failure is not None:
                raise failure

    def _predict_group(
        self, group: _Group, *, rule: Rule | None, picture_side: int | None
    ) -> tuple[list[Prediction], Exception | None]:
        """The predictions on a group's files up to the first one that fails, and its error."""
        films, failure = group
        decoded = list[DecodedFilm]()
        try:
            for film in films:
                decoded.append(self.decode(film, rule=rule, picture_side=picture_side))
        except Exception as trouble:  # noqa: BLE001 (raised after the predictions before it)
            failure = trouble
        return list(self.decide(decoded, single_core=len(films) > 1)), failure

    def _session_for(self, *, single_core: bool) -> ort.InferenceSession:
        if not single_core or self._open_single_core is None:
            return self._session
        with self._opening:  # opened on first use, once, although several threads may ask for it
            self._single_core = self._single_core or self._open_single_core()
        return self._single_core

    def run(self, images: Luma, *, single_core: bool = False) -> Outputs:
        """Run the model on inputs `uint8 [N, 1, S, S]`; with `single_core` on one core, if there is a session for it.

        Raises:
            ValueError: the inputs have another dtype or shape.
        """
        size = self.contract.input.size
        if images.dtype != np.uint8 or images.shape[1:] != (1, size, size):
            raise ValueError(f"expected uint8 [N, 1, {size}, {size}], got {images.dtype} {list(images.shape)}")
        session = self._session_for(single_core=single_core)
        values = session.run(["logits", "embedding", *self._optional], {"image": images})
        logits, embedding, *others = map(np.asarray, values)
        found = dict(zip(self._optional, others, strict=True))
        return Outputs(
            logits=logits,
            probabilities=self._scaling.probabilities(logits),
            embedding=embedding,
            maps=found.get(MAPS),
            scores=found.get(GATE),
            distances=found.get(DISTANCE),
        )

    def decode(self, film: ImageFile, *, rule: Rule | None = None, picture_side: int | None = None) -> DecodedFilm:
        """The first half of `predict`, for callers that overlap decoding with runs of the model themselves."""
        started, input_rule = time.perf_counter(), self.contract.input
        image: Luma | Reason
        radiograph, luma, doubt = None, None, None
        try:
            try:
                radiograph = read_for_input(film.read(), input_rule, limits=self.limits)
            except UnsuitableError as refusal:
                if refusal.radiograph is None:
                    raise
                # It could be decoded: the gate may find a more specific reason to reject it.
                radiograph, doubt = refusal.radiograph, Reason(refusal.code, str(refusal))
            image = to_input(radiograph.luma, input_rule)
            luma = None if picture_side is None else fit(radiograph.luma, picture_side)
        except ImageError as refusal:
            image = Reason(refusal.code, str(refusal))
        except OSError as trouble:
            image = Reason("unreadable", f"the file cannot be read ({trouble.strerror or trouble}).")
        return DecodedFilm(
            name=film.name,
            rule=rule or self._default_rule,
            image=image,
            luma=luma,
            doubt=doubt,
            notes=() if radiograph is None else radiograph.notes,
            age_years=None if radiograph is None else radiograph.age_years,
            coloured=None if radiograph is None else radiograph.coloured,
            transparent=0.0 if radiograph is None else radiograph.transparent,
            milliseconds=_since(started),
        )

    def decide(self, batch: Sequence[DecodedFilm], *, single_core: bool = False) -> Iterator[Prediction]:
        """The second half of `predict`, for several films in one `run` of the model; `BATCH` films are fastest."""
        images = [film.image for film in batch if not isinstance(film.image, Reason)]
        started = time.perf_counter()
        outputs = self.run(np.stack(images), single_core=single_core) if images else None
        # One run decides on the whole batch, so each film is charged with an equal share of its time.
        share = _since(started) / max(1, len(images))
        rows = iter(range(len(images)))
        for film in batch:
            if isinstance(film.image, Reason):
                yield self._prediction(film, reject(self.contract, film.image))
            else:
                assert outputs is not None
                yield self._predict_decoded(film, film.image, outputs.row(next(rows)), share)

    def _predict_decoded(self, film: DecodedFilm, image: Luma, row: Outputs, milliseconds: float) -> Prediction:
        """The prediction on a film that could be decoded, from the model's outputs."""
        why = self._fault(film, row, image)
        if why is not None and self.fix_orientation and can_undo(why.code):
            # The model input is turned or inverted, so the file is not decoded again.
            started, better = time.perf_counter(), undo(why.code, image[0])[np.newaxis]
            fixed = self.run(better[np.newaxis]).row(0)
            milliseconds += _since(started)
            if self._fault(film, fixed, better) is None:  # a correction counts only if the gate then accepts the film
                luma = None if film.luma is None else undo(why.code, film.luma)
                film, row, image = replace(film, notes=(*film.notes, undone_note(why.code)), luma=luma), fixed, better
                why = None
        if why is not None:
            return replace(
                self._prediction(film, reject(self.contract, why)),
                outputs=row,
                brightness=float(image.mean()) / _WHITE,
                stages={"decode": film.milliseconds, "model": milliseconds},
            )
        notes = film.notes
        if (
            self.contract.gate is not None
            and row.scores is not None
            and (warning := mirror_warning(self.contract.gate, row.scores))
        ):
            notes = (*notes, warning)
        verdict = decide(
            self.contract, row.probabilities, row.maps, rule=film.rule, notes=notes, age_years=film.age_years
        )
        shares = dict(zip(self.contract.classes, map(float, row.probabilities), strict=True))
        groups = self.contract.groups.items()
        return replace(
            self._prediction(film, verdict),
            probabilities=shares,
            groups={group: sum(shares[member] for member in members) for group, members in groups},
            outputs=row,
            brightness=float(image.mean()) / _WHITE,
            stages={"decode": film.milliseconds, "model": milliseconds},
        )

    def _fault(self, film: DecodedFilm, row: Outputs, image: Luma) -> Reason | None:
        """The reason to reject a film, or None. Without a gate, only a doubt from reading the file is a reason."""
        gate, why = self.contract.gate, None
        if gate is not None and row.scores is not None and row.distances is not None:
            why = find_fault(gate, row.scores, row.distances, film.coloured, image, transparent=film.transparent)
        # "Not a radiograph" is a more specific reason than a doubt about the file. "Turned", "negative" or "unlike the
        # training films" is not more specific.
        return why if film.doubt is None or (why is not None and is_not_radiograph(why.code)) else film.doubt

    def _prediction(self, film: DecodedFilm, verdict: Verdict) -> Prediction:
        """The prediction with a film's decision and facts, without the model's numbers."""
        return Prediction(
            **vars(verdict),
            image=film.name,
            classes=self.contract.classes,
            group_names=tuple(self.contract.groups),
            luma=film.luma,
            model=self.model,
            stages={"decode": film.milliseconds},
        )


def _groups(films: Iterable[ImageFile], cores: int) -> Iterator[_Group]:
    """Image files in groups, small groups first so that every core has work, and the error that ended them, if any."""
    films = iter(films)
    for size in chain(*([size] * cores for size in (1, 2, 4)), repeat(BATCH)):
        group, failure = list[ImageFile](), None
        try:
            group.extend(islice(films, size))  # keeps those that came before an error
        except Exception as trouble:  # noqa: BLE001 (raised after the predictions before it)
            failure = trouble
        if group or failure:
            yield group, failure
        if len(group) < size:
            return


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
