/* Whether the processor has the instructions that a library was compiled for; without the question, the first run would
 * end in an illegal instruction. Asked here by hand, as not every compiler's library has __builtin_cpu_supports. */
#ifndef LEPTON_CPU_H
#define LEPTON_CPU_H

#include <stddef.h>
#include <stdint.h>

/* Names lie in the tables: a pointer to one takes as much space, and as much again to be relocated. */
enum { LEPTON_CPU_NAME = 16 };

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
  char name[LEPTON_CPU_NAME]; /* as LLVM calls it */
  uint32_t leaf;
  uint8_t subleaf, reg, bit;
  uint32_t state;
};

/* What CPUID says at a leaf. Each question takes microseconds in a virtual machine: so leaves are asked for once. */
struct lepton_cpu_leaf {
  uint32_t leaf, subleaf;
  unsigned int registers[4];
};

static inline void lepton_cpu_ask(struct lepton_cpu_leaf *asked, uint32_t leaf, uint32_t subleaf) {
  unsigned int *r = asked->registers;
  asked->leaf = leaf;
  asked->subleaf = subleaf;
  if (__get_cpuid_count(leaf, subleaf, &r[LEPTON_EAX], &r[LEPTON_EBX], &r[LEPTON_ECX], &r[LEPTON_EDX]) == 0) {
    r[LEPTON_EAX] = r[LEPTON_EBX] = r[LEPTON_ECX] = r[LEPTON_EDX] = 0;
  }
}

/* The registers that the system saves; `first` is leaf 1. */
static inline uint32_t lepton_cpu_state(const struct lepton_cpu_leaf *first) {
  if (((first->registers[LEPTON_ECX] >> 27) & 1) == 0) return LEPTON_NO_STATE; /* OSXSAVE */
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

/* The name of the first of `count` features that this processor lacks; NULL when it has all. */
static inline const char *lepton_cpu_lacks(const struct lepton_cpu_feature *features, size_t count) {
  struct lepton_cpu_leaf asked;
  lepton_cpu_ask(&asked, 1, 0);
  const uint32_t state = lepton_cpu_state(&asked);
  for (size_t i = 0; i < count; i++) {
    const struct lepton_cpu_feature *feature = &features[i];
    if (asked.leaf != feature->leaf || asked.subleaf != feature->subleaf) {
      lepton_cpu_ask(&asked, feature->leaf, feature->subleaf);
    }
    if (((asked.registers[feature->reg] >> feature->bit) & 1) == 0 || (state & feature->state) != feature->state) {
      return feature->name;
    }
  }
  return NULL;
}

#else

#include <sys/auxv.h>

/* Where Linux tells of a feature: a word of the auxiliary vector, and the bits in it that must all be set. */
struct lepton_cpu_feature {
  char name[LEPTON_CPU_NAME]; /* as LLVM calls it */
  unsigned long word, bits;
};

/* The name of the first of `count` features that this processor lacks; NULL when it has all. */
static inline const char *lepton_cpu_lacks(const struct lepton_cpu_feature *features, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if ((getauxval(features[i].word) & features[i].bits) != features[i].bits) return features[i].name;
  }
  return NULL;
}

#endif

#endif
