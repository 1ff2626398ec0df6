/* Whether the processor has the instructions that a library was compiled for; without the question, the first run would
 * end in an illegal instruction. Asked here by hand, as not every compiler's library has __builtin_cpu_supports. */
#ifndef LEPTON_CPU_H
#define LEPTON_CPU_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

#include <cpuid.h>

enum { LEPTON_EAX, LEPTON_EBX, LEPTON_ECX, LEPTON_EDX };

/* The registers that the system must save for a feature, as bits of XCR0: Intel SDM volume 1, 13.3. */
enum {
  LEPTON_NO_STATE = 0,
  LEPTON_AVX_STATE = 0x6,       /* XMM and YMM */
  LEPTON_AVX512_STATE = 0xe6,   /* besides those, masks and ZMM */
  LEPTON_AMX_STATE = 0x60006    /* XMM, YMM and tiles */
};

/* Where CPUID tells of a feature: Intel SDM volume 2, CPUID. */
struct lepton_cpu_feature {
  const char *name; /* as LLVM calls it */
  uint32_t leaf, subleaf, reg, bit;
  uint32_t state;
};

static inline int lepton_cpu_has(const struct lepton_cpu_feature *feature) {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(feature->leaf, feature->subleaf, &eax, &ebx, &ecx, &edx) == 0) return 0;
  const unsigned int registers[] = {eax, ebx, ecx, edx};
  if (((registers[feature->reg] >> feature->bit) & 1) == 0) return 0;
  if (feature->state == LEPTON_NO_STATE) return 1;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || ((ecx >> 27) & 1) == 0) return 0; /* OSXSAVE */
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & feature->state) == feature->state;
}

#else

#include <sys/auxv.h>

/* Where Linux tells of a feature: a word of the auxiliary vector, and the bits in it that must all be set. */
struct lepton_cpu_feature {
  const char *name; /* as LLVM calls it */
  unsigned long word, bits;
};

static inline int lepton_cpu_has(const struct lepton_cpu_feature *feature) {
  return (getauxval(feature->word) & feature->bits) == feature->bits;
}

#endif

/* The name of the first of `count` features that this processor lacks; NULL when it has all. */
static inline const char *lepton_cpu_lacks(const struct lepton_cpu_feature *features, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (!lepton_cpu_has(&features[i])) return features[i].name;
  }
  return NULL;
}

#endif
