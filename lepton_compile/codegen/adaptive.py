"""The C text that only libraries of several variants have: in the header NAME.h, and in the driver NAME.c.

A library with one program neither senses nor switches anything, so it has none of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lepton_compile.codegen.driver import Driver, Facts
from lepton_compile.codegen.interface import Extension, static_nbytes
from lepton_compile.codegen.names import string_literal
from lepton_compile.codegen.parts import Part
from lepton_compile.codegen.variants import Variant
from lepton_compile.codegen.weights import WeightTable
from lepton_compile.lowering.program import INSTANCE_BYTES

API = ("adapt", "taken")
"""The functions that such a library exports besides, without the model's prefix."""

# What calloc aligns to; lent outputs need be aligned to their elements only.
_LENT_ALIGNMENT = 16


@dataclass(frozen=True)
class Facet:
    """What a variant is chosen by.

    Attributes:
        name: Of the variant.
        nanoseconds: Of a run on one thread.
        arena_bytes: Working memory.
        weights_bytes: How much of the table of weights it reads.
    """

    name: str
    nanoseconds: int
    arena_bytes: int
    weights_bytes: int

    @property
    def memory_bytes(self) -> int:
        """What an instance takes in all while it runs the variant."""
        return self.arena_bytes + self.weights_bytes + INSTANCE_BYTES


def facets(variants: Sequence[Variant], weights: WeightTable) -> tuple[Facet, ...]:
    """What variants are chosen by; each has a time."""
    return tuple(
        Facet(variant.name, round((variant.seconds or 0) * 1e9), variant.program.memory.arena_bytes, reads)
        for variant, reads in zip(variants, weights.reads, strict=True)
    )


def extension(name: str, count: int) -> Extension:
    """What the header of a library has besides.

    Args:
        name: The model's name.
        count: How many variants there are.
    """
    upper = name.upper()
    return Extension(
        note=f"""\
 *
 * Variants: the library holds the model in {count} variants that share weights, the best first. {name}_create senses
 * the processor, how many of them the process may use and the memory that is free, and takes the first variant that
 * suits them and the limits in the options. {name}_adapt does so anew, with other limits, while runs follow each other.
""",
        macros=f"\n#define {upper}_VARIANTS {count} /* only libraries with several variants have this */\n",
        types=f"""\
/* What a variant has to keep; 0 where there is no limit. If none does, the one that comes nearest is taken. */
typedef struct {name}_limits {{
  /* Of a run. A variant is taken to need its `nanoseconds` divided by the instance's threads, or by the processors that
   * the process may use where these are fewer: several threads will hardly do better. */
  uint64_t latency_ns;

  uint64_t memory_bytes; /* of the instance and the weights that it reads: a variant's `memory_bytes` */
}} {name}_limits;

typedef struct {name}_variant {{
  const char *name;
  const char *lacks;      /* an extension of the instruction set that it needs and this processor lacks; null if none */
  uint64_t nanoseconds;   /* of a run on one thread, as measured or predicted where the library was compiled */
  uint64_t arena_bytes;   /* working memory */
  uint64_t weights_bytes; /* what it reads of the weights */
  uint64_t memory_bytes;  /* what an instance takes in all: arena, weights, and 64 KiB for itself */
}} {name}_variant;

""",
        options=f"""
  /* For the choice of a variant, until {name}_adapt sets others. An arena of the caller's may then be smaller than said
   * above: the variants that fit into it are there to choose from. */
  {name}_limits limits;
""",
        information=f"""\
  int32_t variant_count;
  const {name}_variant *variants; /* the best first */
""",
        functions=f"""
/* Chooses a variant anew, by these limits in place of the earlier ones (null: none) and by what the machine has to give
 * now. From any thread, at any time; of two calls at a time, one gets {upper}_BUSY. No run waits for it: one that is on
 * ends as it began, and the next one takes the new variant. The old one's arena is freed at once when no run is on,
 * else when that run ends. When it fails, the instance keeps what it has, and {name}_error(NULL) says why. */
{upper}_API {name}_status {name}_adapt({name}_instance *instance, const {name}_limits *limits);

/* The number of the variant that the next run takes; -1 for a null instance. `within_limits`, which may be null, gets 1
 * when the variant keeps the limits and there is memory for it, else 0. From any thread. */
{upper}_API int32_t {name}_taken(const {name}_instance *instance, int32_t *within_limits);
""",
    )


class AdaptiveDriver(Driver):
    """The driver of a library with several variants."""

    _runtime = "lepton_variants.h"

    def __init__(self, parts: Sequence[Part], weights: WeightTable, facts: Facts, facets: Sequence[Facet]) -> None:
        """Say what it is of.

        Args:
            parts: The programs, the best first.
            weights: The table of weights.
            facts: What NAME_info tells.
            facets: What programs are chosen by.
        """
        super().__init__(parts, weights, facts)
        self._facets = facets

    @cached_property
    def _lent(self) -> tuple[Mapping[str, int], int]:
        """Where in the instance outputs lie for which the caller has no memory, and how much that takes.

        They can not lie in an arena, which may be gone when the caller reads them.
        """
        offsets: dict[str, int] = {}
        position = 0
        for buffer in self._program.outputs:
            if (size := static_nbytes(buffer)) is not None:
                offsets[buffer.name] = position
                position += -(-size // _LENT_ALIGNMENT) * _LENT_ALIGNMENT
        return offsets, max(position, _LENT_ALIGNMENT)

    def _instance(self) -> str:
        name = self._name
        return f"""\
extern const uint8_t *const {name}_weights; /* {self._weights.nbytes} bytes, 64-byte aligned */

struct {name}_instance {{
  const uint8_t *weights;
  uint8_t *arena; /* of the run that is on */
  {name}_inputs inputs;
  {name}_outputs outputs;
  struct lepton_executor executor;
  struct lepton_profile profile;
  struct lepton_seat seat;
  char error[LEPTON_ERROR_BYTES];
  _Alignas({_LENT_ALIGNMENT}) uint8_t lent[{self._lent[1]}]; /* for outputs that the caller has no memory for */
}};
"""

    def _sequences(self) -> str:
        names = [f"run_{number}" for number in range(len(self._parts))]
        functions = [
            f"/* Variant {facet.name}. */\n{part.sequence(name)}"
            for part, facet, name in zip(self._parts, self._facets, names, strict=True)
        ]
        table = (
            f"static {self._name}_status (*const runs[])(struct {self._name}_instance *) = {{{', '.join(names)}}};\n"
        )
        return "\n".join([*functions, table])

    @property
    def _more_information(self) -> str:
        return f", {len(self._parts)}, variants_table"

    def _information(self) -> str:
        lines, choices, rows = [], [], []
        tables: dict[tuple[str, ...], str] = {(): "NULL, 0"}
        for number, (part, facet) in enumerate(zip(self._parts, self._facets, strict=True)):
            if part.cpu_checks not in tables:
                features = "".join(f"\n  {row}," for row in part.cpu_checks)
                lines.append(f"static const struct lepton_cpu_feature features_{number}[] = {{{features}\n}};")
                tables[part.cpu_checks] = f"features_{number}, {len(part.cpu_checks)}"
            told = f"{facet.nanoseconds}, {facet.arena_bytes}"
            choices.append(f"  {{{tables[part.cpu_checks]}, NULL, {told}, {facet.memory_bytes}}},")
            rows.append(
                f"  {{{string_literal(facet.name)}, NULL, {told}, {facet.weights_bytes}, {facet.memory_bytes}}},"
            )
        lines += ["static struct lepton_variant choices[] = {", *choices, "};"]
        lines += [f"static {self._name}_variant variants_table[] = {{", *rows, "};", ""]
        return "\n".join(lines) + super()._information()

    def _check_processor(self) -> str:
        return ""

    def _check_arena(self) -> str:
        return ""

    def _take_memory(self) -> str:
        return f"""\
  self->weights = {self._name}_weights;
  self->seat.arena = options->arena;
  self->seat.arena_bytes = options->arena_bytes;
  atomic_flag_clear(&self->seat.adapting);
  atomic_init(&self->seat.taken, -1);
"""

    def _settle(self) -> str:
        return f"""\
  self->seat.threads = threads;
  const {self._name}_status status = {self._name}_adapt(self, &options->limits);
  if (status != {self._upper}_OK) {{
    {self._name}_destroy(self);
    return status;
  }}
"""

    def _run(self) -> str:
        name, upper = self._name, self._upper
        return f"""\
static {name}_status run_checked(struct {name}_instance *self, const struct lepton_place *place,
    const {name}_inputs *inputs, {name}_outputs *outputs) {{
{self._check_arguments()}{self._lend("self->lent", self._lent[0])}\
  self->inputs = *inputs;
  self->outputs = *outputs;
  self->arena = place->arena;
  return runs[place->variant](self);
}}

{name}_status {name}_run({name}_instance *self, const {name}_inputs *inputs, {name}_outputs *outputs) {{
  if (self == NULL) return {upper}_INVALID_ARGUMENT;
  struct lepton_place *place = lepton_seat_enter(&self->seat);
  if (place == NULL) return {upper}_BUSY;
  const {name}_status status = run_checked(self, place, inputs, outputs);
  lepton_seat_leave(&self->seat, place);
  return status;
}}

{name}_status {name}_adapt({name}_instance *self, const {name}_limits *limits) {{
  static const {name}_limits none = {{0}};
  if (limits == NULL) limits = &none;
  if (self == NULL) {{
    lepton_error_set(create_error, "the instance is a null pointer");
    return {upper}_INVALID_ARGUMENT;
  }}
  if (atomic_flag_test_and_set(&self->seat.adapting)) {{
    lepton_error_set(create_error, "another thread is adapting the instance");
    return {upper}_BUSY;
  }}
  (void)pthread_once(&sensed, sense_processor);
  const struct lepton_limits asked = {{limits->latency_ns, limits->memory_bytes}};
  const int status = lepton_adapt(&self->seat, choices, {len(self._parts)}, asked, create_error);
  atomic_flag_clear(&self->seat.adapting);
  return ({name}_status)status;
}}

int32_t {name}_taken(const {name}_instance *self, int32_t *within_limits) {{
  const int taken = self == NULL ? -2 : atomic_load(&self->seat.taken);
  if (within_limits != NULL) *within_limits = taken >= 0 && taken % 2;
  return taken / 2;
}}
"""

    def _destroy(self) -> str:
        name = self._name
        return f"""\
void {name}_destroy({name}_instance *self) {{
  if (self == NULL) return;
  lepton_pool_destroy(self->executor.pool);
  lepton_seat_destroy(&self->seat);
  free(self);
}}
"""

    def _tell(self) -> str:
        return f"""\
const {self._name}_information *{self._name}_info(void) {{
  (void)pthread_once(&sensed, sense_processor);
  return &information;
}}
"""

    def _create(self) -> str:
        return f"""\
static pthread_once_t sensed = PTHREAD_ONCE_INIT;

static void sense_processor(void) {{
  for (int i = 0; i < {len(self._parts)}; i++) {{
    choices[i].lacks = lepton_cpu_lacks(choices[i].features, choices[i].feature_count);
    variants_table[i].lacks = choices[i].lacks;
  }}
}}

{super()._create()}"""
