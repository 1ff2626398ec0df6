"""What the C interface of a program is made of: the names of its struct fields, and the header NAME.h.

The header is the contract with the caller: every tensor's ONNX name, type, shape and size stand in it, with who owns
which memory and what may be called from which thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_compile.codegen.names import C_TYPES, comment, unique_identifiers
from lepton_compile.errors import BuildError
from lepton_compile.lowering.program import Buffer, Program

API = ("create", "run", "destroy", "error", "info", "set_profile")
"""The functions that a library exports, without the model's prefix."""


@dataclass(frozen=True)
class Interface:
    """The C names of a program's inputs, outputs and symbolic dimensions.

    Attributes:
        inputs: Field of NAME_inputs for every input buffer, by the buffer's name.
        outputs: Field of NAME_outputs for every output buffer, by the buffer's name.
        dimensions: Field of NAME_inputs for every symbolic dimension.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    dimensions: Mapping[str, str]


def make_interface(program: Program) -> Interface:
    """Choose the field names.

    Raises:
        BuildError: When an input or output has a type that C has no name for.
    """
    for buffer in (*program.inputs, *program.outputs):
        if buffer.dtype not in C_TYPES:
            raise BuildError(
                f"tensor '{onnx_name(buffer)}' is of type {buffer.dtype}, which the C interface can not carry",
                tensor=onnx_name(buffer),
                dtype=buffer.dtype,
            )
    inputs = unique_identifiers(onnx_name(buffer) for buffer in program.inputs)
    outputs = unique_identifiers(onnx_name(buffer) for buffer in program.outputs)
    return Interface(
        dict(zip((buffer.name for buffer in program.inputs), inputs, strict=True)),
        dict(zip((buffer.name for buffer in program.outputs), outputs, strict=True)),
        dict(zip(program.dimensions, unique_identifiers(program.dimensions, inputs), strict=True)),
    )


def onnx_name(buffer: Buffer) -> str:
    """What ONNX calls the tensor in this buffer."""
    return buffer.tensor if buffer.tensor is not None else buffer.name


def shape_text(buffer: Buffer) -> str:
    """Type and logical shape, like float32[1,3,224,224]."""
    return f"{buffer.dtype}[{','.join(str(dim) for dim in buffer.shape)}]"


def static_nbytes(buffer: Buffer) -> int | None:
    """Size in bytes; None when it depends on a symbolic dimension."""
    return None if any(isinstance(dim, str) for dim in buffer.shape) else buffer.nbytes()


def _field(buffer: Buffer, field: str, const: str) -> str:
    size = static_nbytes(buffer)
    text = f"{shape_text(buffer)}, {size} bytes" if size is not None else shape_text(buffer)
    if buffer.dtype in ("float16", "bfloat16"):
        text += f", the bits of a {buffer.dtype}"
    if buffer.dtype == "bool":
        text += ", 0 or 1"
    return f'  {const}{C_TYPES[buffer.dtype]} *{field}; /* "{comment(onnx_name(buffer))}": {text} */'


@dataclass(frozen=True)
class Extension:
    """What a header has besides, each at its place.

    Attributes:
        note: In the comment at the beginning.
        macros: Before the types.
        types: Before the options.
        options: Fields of NAME_options.
        information: Fields of NAME_information.
        functions: After the others.
    """

    note: str = ""
    macros: str = ""
    types: str = ""
    options: str = ""
    information: str = ""
    functions: str = ""


def header(program: Program, interface: Interface, *, description: str, extension: Extension | None = None) -> str:
    """The text of NAME.h.

    Args:
        program: The program.
        interface: Its C names.
        description: One line on where the library comes from and which machine it is for.
        extension: What it has besides.
    """
    extension = extension or Extension()
    name, upper = program.name, program.name.upper()
    inputs = [_field(buffer, interface.inputs[buffer.name], "const ") for buffer in program.inputs]
    inputs += [
        f'  int32_t {field}; /* dimension "{comment(dimension)}" of the shapes here, at least 1 */'
        for dimension, field in interface.dimensions.items()
    ]
    outputs = [_field(buffer, interface.outputs[buffer.name], "") for buffer in program.outputs]
    # C has no empty structs.
    input_fields = "\n".join(inputs or ["  int32_t nothing; /* the model has no inputs */"])
    output_fields = "\n".join(outputs or ["  int32_t nothing; /* the model has no outputs */"])
    return f"""\
/* {name}.h: the interface of lib{name}.so. {comment(description)}
 *
 *     {name}_instance *model = NULL;
 *     {name}_inputs inputs = {{0}};    set every pointer
 *     {name}_outputs outputs = {{0}};  or set pointers to memory of yours
 *     if ({name}_create(NULL, &model) != {upper}_OK) ...
 *     if ({name}_run(model, &inputs, &outputs) != {upper}_OK) puts({name}_error(model));
 *     {name}_destroy(model);
 *
 * Tensors are row-major and contiguous, in memory of the caller, which need be aligned to one element only. Inputs are
 * only read. An output goes where its pointer points, which must not overlap an input or another output; when the
 * pointer is null it is set to memory of the instance, which holds the output until the instance's next run or its end.
 *
 * Threads: an instance serves one call at a time, from any thread. Different instances may run at the same time; they
 * share the weights and nothing else.
{extension.note}\
 */
#ifndef {upper}_LEPTON_H
#define {upper}_LEPTON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#if defined(__GNUC__)
#define {upper}_API __attribute__((visibility("default")))
#else
#define {upper}_API
#endif
{extension.macros}
typedef enum {name}_status {{
  {upper}_OK = 0,
  {upper}_INVALID_ARGUMENT = 1,   /* a null pointer, a dimension or option out of range, a bad arena */
  {upper}_OUT_OF_RESOURCES = 2,   /* no memory for the arena, or no thread could be started */
  {upper}_BUSY = 3,               /* the instance is already running in another thread */
  {upper}_UNSUPPORTED_CPU = 4,    /* this processor lacks instructions that the library was compiled for */
  {upper}_INVALID_INPUT = 5       /* values that the model does not take: an index out of range, a division by zero */
}} {name}_status;

/* Part [begin, end) of a step's blocks. */
typedef void (*{name}_task)(void *task_context, int32_t begin, int32_t end);

/* Runs task(task_context, ...) over disjoint ranges that together are [0, blocks), in any order and on any threads, and
 * returns when all are done. A task needs 1 MiB of stack. */
typedef void (*{name}_parallel_for)(void *context, {name}_task task, void *task_context, int32_t blocks);

{extension.types}\
/* All zero is a good choice. */
typedef struct {name}_options {{
  /* Threads to run on, the calling one included. 0, or more than the processors that the process may use: one on each
   * of those. */
  int32_t threads;

  /* Used in place of threads of the instance's own; may be null. The context is its first argument. */
  {name}_parallel_for parallel_for;
  void *parallel_context;

  /* Working memory, 64-byte aligned, at least {name}_info()->arena_bytes, kept until {name}_destroy; when it is null,
   * the instance allocates its own. */
  void *arena;
  size_t arena_bytes;
{extension.options}\
}} {name}_options;

typedef struct {name}_inputs {{
{input_fields}
}} {name}_inputs;

typedef struct {name}_outputs {{
{output_fields}
}} {name}_outputs;

typedef struct {name}_tensor {{
  const char *name;     /* as in the ONNX model */
  const char *dtype;    /* "float32", "int64", "bool", ... */
  const int64_t *shape; /* -1 where a dimension is given with the inputs */
  int32_t rank;
  uint64_t bytes;       /* 0 when a dimension is given with the inputs */
}} {name}_tensor;

typedef struct {name}_information {{
  const char *name;
  const char *version;      /* of the compiler */
  const char *target;       /* the machine that the library is for */
  const char *model_hash;   /* SHA-256 of the ONNX model; empty when unknown */
  const char *weights_hash; /* SHA-256 of the table of weights */
  uint64_t arena_bytes;     /* working memory of one instance */
  uint64_t weights_bytes;   /* shared by all instances */
  int32_t input_count;
  int32_t output_count;
  const {name}_tensor *inputs;
  const {name}_tensor *outputs;
{extension.information}\
}} {name}_information;

typedef struct {name}_instance {name}_instance;

/* Makes an instance; `options` may be null. On failure *instance is null, and {name}_error(NULL) says why. */
{upper}_API {name}_status {name}_create(const {name}_options *options, {name}_instance **instance);

/* Runs the model once. */
{upper}_API {name}_status {name}_run({name}_instance *instance, const {name}_inputs *inputs, {name}_outputs *outputs);

/* Ends an instance and frees what it owns; null is allowed. It must not be running. */
{upper}_API void {name}_destroy({name}_instance *instance);

/* What went wrong last, in words, valid until the instance's next call. Null: in this thread's last {name}_create. A
 * run that finds the instance busy leaves no words. */
{upper}_API const char *{name}_error(const {name}_instance *instance);

/* Facts about the model; static memory. */
{upper}_API const {name}_information *{name}_info(void);

/* Called after each step of a run, in the thread that runs, with the step's number in steps.json and how long it took.
 * It must not call functions of the same instance. */
typedef void (*{name}_profile)(void *context, int32_t step, int64_t nanoseconds);

/* Has the instance's runs timed step by step; a null callback ends that. The instance must not be running. */
{upper}_API void {name}_set_profile({name}_instance *instance, {name}_profile callback, void *context);
{extension.functions}
#ifdef __cplusplus
}}
#endif

#endif
"""
