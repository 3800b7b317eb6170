"""Store: tables by (role, evaluation set, wording, candidate), each computed once, from one pass for all metrics."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from efface.audit.aligning import aligned, cut
from efface.audit.roles import ROLE_TEXT, PassSettings, Role
from efface.data.rows import Rows, digest_rows
from efface.metrics.base import Need, NotComputed
from efface.passes.tables import NO_LOGITS, TOKENS, arrays
from efface.progress import SILENT, Progress

if TYPE_CHECKING:
    from efface.passes.cache import Cache


class Store:
    """All tables of one audit. ``plan`` says what will be asked for, so that one pass serves every metric."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        sets: Mapping[str, Rows],
        settings: PassSettings,
        cache: Cache | None = None,
        progress: Progress = SILENT,
        world: Any = None,
        controls: Sequence[str] = ("base",),
    ) -> None:
        """``controls``: roles that are not scored themselves."""
        self.roles, self.sets, self.settings, self.cache, self.progress = (
            dict(roles),
            dict(sets),
            settings,
            cache,
            progress,
        )
        self.world, self.controls = world, controls
        self._tables: dict[tuple, Any] = {}
        self._planned: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        self._digests: dict[str, str] = {}
        self.passes = 0
        self._closed = False

    def plan(self, needs: Iterable[Need]) -> None:
        """Announce needs (rows bound). What is needed of the model that is scored holds for every role but the
        ``controls``, which run what is asked of them by name."""
        for need in needs:
            if need.kind == "score":
                self._planned[need.role, need.rows, need.prompt].update(need.variants)
            elif need.kind == "generate":
                self._planned[need.role, need.rows, need.prompt].add("greedy")

    def fetch(self, role: str, need: Need) -> Any:
        """The table, or ``NotComputed`` with the reason."""
        if role not in self.roles:
            raise NotComputed(ROLE_TEXT.get(role, f"there is no {role} model"))
        if need.kind == "weight":
            return self._weights(role)
        if need.rows and (need.rows not in self.sets or not len(self.sets[need.rows])):
            raise NotComputed(f"the data has no {need.rows} rows")
        if need.kind == "score":
            stem = need.variants[0]
            return self._wrong(role, need) if stem == "wrong" else self._variant(role, need.rows, need.prompt, stem)
        if need.kind == "generate":
            return self._variant(role, need.rows, need.prompt, "greedy")
        if need.kind == "hidden":
            return self._hidden(role, need)
        if need.kind == "gradient":
            return self._gradients(role, need)
        return self._begun(role, need) if self._begins(role, need) else self._registered(role, need)

    def tables(self) -> list[tuple[tuple[str, str, str, str], Any]]:
        """Everything computed or read so far: ((role, set, wording or pass, candidate), Arrow table)."""
        return [(place, table) for place, table in self._tables.items() if table is not None]

    def load_tables(self, tables: Mapping[tuple[str, str, str, str], Any]) -> None:
        """Take over tables from a record; what is missing then is not computed but reported as missing."""
        self._tables.update(tables)
        self._closed = True

    def preload(self, tables: Mapping[tuple[str, str, str, str], Any]) -> None:
        """Take over tables that are known already; what is missing is computed."""
        self._tables.update(tables)

    def of(self, role: str, sets: Mapping[str, Rows]) -> dict[tuple[str, str, str, str], Any]:
        """What is at hand of ``role`` for rows that are among this store's own, cut to these rows and their order."""
        return cut(self._tables, self.sets, role, sets)

    # -- score and generate -------------------------------------------------------------------------------------------
    def _variant(self, role: str, rows: str, prompt: str, variant: str) -> pa.Table:
        place = (role, rows, prompt, variant)
        if place not in self._tables:
            self._run(role, rows, prompt, {variant})
        table = self._tables[place]
        if table is None or not table.num_rows or all(p.startswith("no ") for p in table["problem"].to_pylist()):
            wording = variant in ("answer", "greedy") and prompt != "prompt"
            raise NotComputed(f"the {rows} rows carry no {prompt if wording else variant}")
        if variant != "greedy" and NO_LOGITS in table["problem"].to_pylist():
            raise NotComputed(NO_LOGITS)
        return table

    def _wrong(self, role: str, need: Need) -> list[list[Any]]:
        first = self._variant(role, need.rows, need.prompt, "wrong:0")
        out: list[list[Any]] = [[] for _ in range(first.num_rows)]
        k = 0
        while (table := self._tables.get((role, need.rows, need.prompt, f"wrong:{k}"))) is not None:
            import numpy as np

            for i, lp in enumerate(arrays(table["lp"], np.float64)):
                if lp.size:
                    out[i].append(lp)
            k += 1
        return out

    def _run(self, role: str, rows: str, prompt: str, extra: set[str]) -> None:
        """One pass for everything planned on these rows that is neither in memory nor in the cache."""
        if self._closed:
            raise NotComputed("the record holds no table for it")
        planned = set().union(*(self._planned[name, rows, prompt] for name in self._names(role)))
        wanted = {v.split(":")[0] for v in planned | extra}
        names = self._expand(rows, wanted)
        missing = [name for name in names if not self._from_cache(role, rows, prompt, name)]
        if missing:
            self._compute(role, rows, prompt, self._whole_pass(role, rows, prompt, names, missing))
        for name in extra - set(names):
            self._tables[role, rows, prompt, name] = None

    def _names(self, role: str) -> set[str]:
        """Under which names needs of this role are planned."""
        return {role} if role in self.controls else {role, "subject"}

    def _whole_pass(self, role: str, rows: str, prompt: str, names: list[str], missing: list[str]) -> list[str]:
        """``missing``, or all of a pass of which the cache holds a part: a killed or a concurrent run wrote it. Which
        candidates share a batch decides the last bits, so half a pass is computed again as a whole."""
        for name in names if self.cache else ():
            note = self.cache.note(self._key(role, rows, prompt, name)) if name not in missing else ""  # type: ignore[union-attr]
            if note and set(together := json.loads(note)) & set(missing):
                return together
        return missing

    def _expand(self, rows: str, wanted: set[str]) -> list[str]:
        most = max((len(getattr(r, "wrong", ())) for r in self.sets[rows]), default=0)
        return sorted(wanted - {"wrong"}) + ([f"wrong:{i}" for i in range(most)] if "wrong" in wanted else [])

    def _compute(self, role: str, rows: str, prompt: str, missing: list[str]) -> None:
        from efface.passes.generate import GenerateSettings
        from efface.passes.score import score

        data = self.sets[rows]
        if prompt != "prompt":
            data = [r for r in data if getattr(r, prompt, "")]  # type: ignore[assignment]
        answers = tuple(dict.fromkeys(n.split(":")[0] for n in missing if n != "greedy")) or ("answer",)
        drawn = self._drawn(role, data, prompt) if "greedy" in missing else None
        greedy = None
        if "greedy" in missing and drawn is None:
            greedy = GenerateSettings(max_new_tokens=self.settings.max_new_tokens)
        self.passes += 1
        result = None
        if drawn is None or missing != ["greedy"]:  # drawn answers need no scores
            result = score(
                self.roles[role].adapter(),
                data,
                prompt=prompt,
                answers=answers,
                token_budget=self.settings.token_budget,
                generate=greedy,
                progress=self.progress,
            )
        for name in missing:
            if name == "greedy":
                table = drawn if result is None or drawn is not None else result.generations
            else:
                table = result.tokens.filter(pc.equal(result.tokens["variant"], name))
            table = aligned(table, self.sets[rows], prompt, name)
            self._tables[role, rows, prompt, name] = table
            if self.cache:
                self.cache.put(self._key(role, rows, prompt, name), table, json.dumps(missing))

    def _drawn(self, role: str, data: Rows, prompt: str) -> pa.Table | None:
        """Answers drawn as the settings say; None where they are greedy, which the scoring pass gives."""
        from efface.passes.generate import generate

        if self.settings.decoding is None:
            return None
        settings = self.settings.decoding.model_copy(
            update={"max_new_tokens": self.settings.max_new_tokens, "samples": 1}
        )
        return generate(self.roles[role].adapter(), data, prompt=prompt, settings=settings)

    def _begins(self, role: str, need: Need) -> bool:
        """Whether a continuation is the beginning of the greedy answers that are generated for other metrics."""
        asked = any("greedy" in self._planned[name, need.rows, need.prompt] for name in self._names(role))
        plain = need.kind == "continuation" and len(need.variants) == 1 and self.settings.decoding is None
        return asked and plain and not self._closed and int(need.variants[0]) <= self.settings.max_new_tokens

    def _begun(self, role: str, need: Need) -> pa.Table:
        """That beginning; it costs no pass."""
        from efface.passes.continuation import shortened

        place = (role, need.rows, need.kind, "/".join([*need.variants, need.prompt, need.pooling]))
        if place not in self._tables:
            key = self._key(role, need.rows, *place[2:], "begun", str(self.settings.max_new_tokens))
            table = self.cache.get(key) if self.cache else None
            if table is None:
                whole = self._variant(role, need.rows, need.prompt, "greedy")
                table = shortened(self.roles[role].adapter(), whole, int(need.variants[0]))
                if self.cache:
                    self.cache.put(key, table)
            self._tables[place] = table
        return self._tables[place]

    # -- the other passes ----------------------------------------------------------------------------------------------
    def _hidden(self, role: str, need: Need) -> Any:
        from efface.passes.hidden import hidden

        def compute() -> pa.Table:
            adapter = self.roles[role].adapter()
            layers = list(range(1, len(adapter.blocks) + 1))
            return hidden(
                adapter,
                self.sets[need.rows],
                layers=layers,
                pooling=need.pooling,
                token_budget=self.settings.token_budget,
            )

        table = self._once((role, need.rows, "hidden", need.pooling), compute)
        layers = sorted(set(table["layer"].to_pylist()))
        if need.variants[0] == "layers":
            return layers
        layer = int(need.variants[0])
        return table.filter(pc.equal(table["layer"], layers[layer] if layer < 0 else layer))

    def _gradients(self, role: str, need: Need) -> pa.Table:
        from efface.passes.gradient import gradient

        return self._once(
            (role, need.rows, "gradient", ""),
            lambda: gradient(self.roles[role].adapter(), self.sets[need.rows], progress=self.progress),
        )

    def _registered(self, role: str, need: Need) -> pa.Table:
        """A table of ``passes.registry``; its key holds the weights of every role it reads."""
        from efface.passes.registry import PASSES, PassInput

        found = PASSES.get(need.kind)
        for other in need.others:
            if other not in self.roles:
                raise NotComputed(ROLE_TEXT.get(other, f"there is no {other} model"))
        name = "/".join([*need.variants, need.prompt, need.pooling])
        settings = self.settings

        def compute() -> pa.Table:
            return found.function(
                PassInput(
                    self.roles[role].adapter(),
                    self.sets.get(need.rows, ()),
                    need,
                    lambda other: self.roles[other].adapter(),
                    self.fetch,
                    settings.token_budget,
                    settings.max_new_tokens,
                    settings.seed,
                    self.world,
                    role,
                    settings.judge,
                )
            )

        brought = json.dumps(getattr(self.world, "concept_vectors", None), default=str)
        extra = [found.version, settings.max_new_tokens, settings.seed, getattr(self.world, "seed", None), brought]
        keys = [self.roles[other].key() for other in need.others] if not self._closed else []
        keys += settings.judge_key() if found.reads_judge else []
        return self._once((role, need.rows, need.kind, name), compute, [*map(str, extra), *keys])

    def _weights(self, role: str) -> pa.Table:
        from efface.models.rounding import roundable
        from efface.passes.weight import weight

        def compute() -> pa.Table:
            target, other = (self.roles[name].adapter() for name in ("target", role))
            a, b = (dict(adapter.module.named_parameters()) for adapter in (target, other))  # tied weights once
            if {k: v.shape for k, v in a.items()} != {k: v.shape for k, v in b.items()}:
                raise NotComputed("the two models do not have the same parameters")
            return weight(a, b, roundable(target))

        if "target" not in self.roles:
            raise NotComputed(ROLE_TEXT["target"])
        return self._once((role, "", "weight", ""), compute)

    def _once(
        self, place: tuple[str, str, str, str], compute: Callable[[], pa.Table], extra: Sequence[str] = ()
    ) -> pa.Table:
        """The table at ``place``: from memory, from the cache, or computed."""
        if place in self._tables:
            return self._tables[place]
        if self._closed:
            raise NotComputed("the record holds no table for it")
        role, rows, kind, name = place
        key = self._key(role, rows, kind, name, *extra) if kind != "weight" else self._pair_key(role)
        table = self.cache.get(key) if self.cache else None
        if table is None:
            self.passes += 1
            table = compute()
            if self.cache:
                self.cache.put(key, table)
        self._tables[place] = table
        return table

    def _pair_key(self, role: str) -> str:
        return hashlib.sha256(f"weight/{self.roles['target'].key()}/{self.roles[role].key()}".encode()).hexdigest()

    # -- cache ---------------------------------------------------------------------------------------------------------
    def _from_cache(self, role: str, rows: str, prompt: str, name: str) -> bool:
        place = (role, rows, prompt, name)
        if place in self._tables:
            return True
        if not self.cache or (table := self.cache.get(self._key(role, rows, prompt, name))) is None:
            return False
        self._tables[place] = table
        return True

    def _key(self, role: str, rows: str, prompt: str, name: str, *extra: str) -> str:
        if rows not in self._digests:
            self._digests[rows] = digest_rows(self.sets.get(rows, ()))
        length = f"{self.settings.max_new_tokens}{self.settings.decoding or ''}" if name == "greedy" else "0"
        parts = [self.roles[role].key(), self._digests[rows], prompt, name, length, str(TOKENS), *extra]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()
