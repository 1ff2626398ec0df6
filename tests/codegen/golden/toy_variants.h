/* toy.h: the interface of libtoy.so. Generated for a test.
 *
 *     toy_instance *model = NULL;
 *     toy_inputs inputs = {0};    set every pointer
 *     toy_outputs outputs = {0};  or set pointers to memory of yours
 *     if (toy_create(NULL, &model) != TOY_OK) ...
 *     if (toy_run(model, &inputs, &outputs) != TOY_OK) puts(toy_error(model));
 *     toy_destroy(model);
 *
 * Tensors are row-major and contiguous, in memory of the caller, which need be aligned to one element only. Inputs are
 * only read. An output goes where its pointer points, which must not overlap an input or another output; when the
 * pointer is null it is set to memory of the instance, which holds the output until the instance's next run or its end.
 *
 * Threads: an instance serves one call at a time, from any thread. Different instances may run at the same time; they
 * share the weights and nothing else.
 *
 * Variants: the library holds the model in 2 variants that share weights, the best first. toy_create senses
 * the processor, how many of them the process may use and the memory that is free, and takes the first variant that
 * suits them and the limits in the options. toy_adapt does so anew, with other limits, while runs follow each other.
 */
#ifndef TOY_LEPTON_H
#define TOY_LEPTON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TOY_API __attribute__((visibility("default")))
#else
#define TOY_API
#endif

#define TOY_VARIANTS 2 /* only libraries with several variants have this */

typedef enum toy_status {
  TOY_OK = 0,
  TOY_INVALID_ARGUMENT = 1,   /* a null pointer, a dimension or option out of range, a bad arena */
  TOY_OUT_OF_RESOURCES = 2,   /* no memory for the arena, or no thread could be started */
  TOY_BUSY = 3,               /* the instance is already running in another thread */
  TOY_UNSUPPORTED_CPU = 4,    /* this processor lacks instructions that the library was compiled for */
  TOY_INVALID_INPUT = 5       /* values that the model does not take: an index out of range, a division by zero */
} toy_status;

/* Part [begin, end) of a step's blocks. */
typedef void (*toy_task)(void *task_context, int32_t begin, int32_t end);

/* Runs task(task_context, ...) over disjoint ranges that together are [0, blocks), in any order and on any threads, and
 * returns when all are done. A task needs 1 MiB of stack. */
typedef void (*toy_parallel_for)(void *context, toy_task task, void *task_context, int32_t blocks);

/* What a variant has to keep; 0 where there is no limit. If none does, the one that comes nearest is taken. */
typedef struct toy_limits {
  /* Of a run. A variant is taken to need its `nanoseconds` divided by the instance's threads, or by the processors that
   * the process may use where these are fewer: several threads will hardly do better. */
  uint64_t latency_ns;

  uint64_t memory_bytes; /* of the instance and the weights that it reads: a variant's `memory_bytes` */
} toy_limits;

typedef struct toy_variant {
  const char *name;
  const char *lacks;      /* an extension of the instruction set that it needs and this processor lacks; null if none */
  uint64_t nanoseconds;   /* of a run on one thread, as measured or predicted where the library was compiled */
  uint64_t arena_bytes;   /* working memory */
  uint64_t weights_bytes; /* what it reads of the weights */
  uint64_t memory_bytes;  /* what an instance takes in all: arena, weights, and 64 KiB for itself */
} toy_variant;

/* All zero is a good choice. */
typedef struct toy_options {
  /* Threads to run on, the calling one included. 0, or more than the processors that the process may use: one on each
   * of those. */
  int32_t threads;

  /* Used in place of threads of the instance's own; may be null. The context is its first argument. */
  toy_parallel_for parallel_for;
  void *parallel_context;

  /* Working memory, 64-byte aligned, at least toy_info()->arena_bytes, kept until toy_destroy; when it is null,
   * the instance allocates its own. */
  void *arena;
  size_t arena_bytes;

  /* For the choice of a variant, until toy_adapt sets others. An arena of the caller's may then be smaller than said
   * above: the variants that fit into it are there to choose from. */
  toy_limits limits;
} toy_options;

typedef struct toy_inputs {
  const float *images_0; /* "images:0": float32[8,48], 1536 bytes */
} toy_inputs;

typedef struct toy_outputs {
  float *class_; /* "class": float32[8,48], 1536 bytes */
} toy_outputs;

typedef struct toy_tensor {
  const char *name;     /* as in the ONNX model */
  const char *dtype;    /* "float32", "int64", "bool", ... */
  const int64_t *shape; /* -1 where a dimension is given with the inputs */
  int32_t rank;
  uint64_t bytes;       /* 0 when a dimension is given with the inputs */
} toy_tensor;

typedef struct toy_information {
  const char *name;
  const char *version;      /* of the compiler */
  const char *target;       /* the machine that the library is for */
  const char *model_hash;   /* SHA-256 of the ONNX model; empty when unknown */
  const char *weights_hash; /* SHA-256 of the table of weights */
  uint64_t arena_bytes;     /* working memory of one instance */
  uint64_t weights_bytes;   /* shared by all instances */
  int32_t input_count;
  int32_t output_count;
  const toy_tensor *inputs;
  const toy_tensor *outputs;
  int32_t variant_count;
  const toy_variant *variants; /* the best first */
} toy_information;

typedef struct toy_instance toy_instance;

/* Makes an instance; `options` may be null. On failure *instance is null, and toy_error(NULL) says why. */
TOY_API toy_status toy_create(const toy_options *options, toy_instance **instance);

/* Runs the model once. */
TOY_API toy_status toy_run(toy_instance *instance, const toy_inputs *inputs, toy_outputs *outputs);

/* Ends an instance and frees what it owns; null is allowed. It must not be running. */
TOY_API void toy_destroy(toy_instance *instance);

/* What went wrong last, in words, valid until the instance's next call. Null: in this thread's last toy_create. A
 * run that finds the instance busy leaves no words. */
TOY_API const char *toy_error(const toy_instance *instance);

/* Facts about the model; static memory. */
TOY_API const toy_information *toy_info(void);

/* Called after each step of a run, in the thread that runs, with the step's number in steps.json and how long it took.
 * It must not call functions of the same instance. */
typedef void (*toy_profile)(void *context, int32_t step, int64_t nanoseconds);

/* Has the instance's runs timed step by step; a null callback ends that. The instance must not be running. */
TOY_API void toy_set_profile(toy_instance *instance, toy_profile callback, void *context);

/* Chooses a variant anew, by these limits in place of the earlier ones (null: none) and by what the machine has to give
 * now. From any thread, at any time; of two calls at a time, one gets TOY_BUSY. No run waits for it: one that is on
 * ends as it began, and the next one takes the new variant. The old one's arena is freed at once when no run is on,
 * else when that run ends. When it fails, the instance keeps what it has, and toy_error(NULL) says why. */
TOY_API toy_status toy_adapt(toy_instance *instance, const toy_limits *limits);

/* The number of the variant that the next run takes; -1 for a null instance. `within_limits`, which may be null, gets 1
 * when the variant keeps the limits and there is memory for it, else 0. From any thread. */
TOY_API int32_t toy_taken(const toy_instance *instance, int32_t *within_limits);

#ifdef __cplusplus
}
#endif

#endif
