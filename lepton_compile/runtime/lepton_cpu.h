/* Whether the processor has the instructions that a library was compiled for; without the question, the first run would
 * end in an illegal instruction. Asked here by hand, as not every compiler's library has __builtin_cpu_supports. */
#ifndef LEPTON_CPU_H
#define LEPTON_CPU_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>

enum { LEPTON_EBX, LEPTON_ECX, LEPTON_EDX, LEPTON_EAX };

/* Where CPUID tells of a feature, and the parts of the register state that the system must save for it (XCR0). */
struct lepton_cpu_feature {
  const char *name; /* as LLVM calls it */
  uint32_t leaf, subleaf, reg, bit;
  uint32_t state;
};

static inline int lepton_cpu_has(const struct lepton_cpu_feature *feature) {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(feature->leaf, feature->subleaf, &eax, &ebx, &ecx, &edx) == 0) return 0;
  const unsigned int registers[] = {ebx, ecx, edx, eax};
  if (((registers[feature->reg] >> feature->bit) & 1) == 0) return 0;
  if (feature->state == 0) return 1;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || ((ecx >> 27) & 1) == 0) return 0; /* OSXSAVE */
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & feature->state) == feature->state;
}

/* The first of the features (ended by NULL) that this processor lacks; NULL when it has all. */
static inline const char *lepton_cpu_lacks(const char *const *features) {
  /* Intel SDM volume 2, CPUID. 0x06: SSE and AVX state; 0xe6: that and AVX-512's; 0x60006: that and AMX tiles'. */
  static const struct lepton_cpu_feature table[] = {
      {"sse4.2", 1, 0, LEPTON_ECX, 20, 0},
      {"avx", 1, 0, LEPTON_ECX, 28, 0x06},
      {"fma", 1, 0, LEPTON_ECX, 12, 0x06},
      {"f16c", 1, 0, LEPTON_ECX, 29, 0x06},
      {"avx2", 7, 0, LEPTON_EBX, 5, 0x06},
      {"bmi2", 7, 0, LEPTON_EBX, 8, 0},
      {"avx512f", 7, 0, LEPTON_EBX, 16, 0xe6},
      {"avx512dq", 7, 0, LEPTON_EBX, 17, 0xe6},
      {"avx512ifma", 7, 0, LEPTON_EBX, 21, 0xe6},
      {"avx512cd", 7, 0, LEPTON_EBX, 28, 0xe6},
      {"avx512bw", 7, 0, LEPTON_EBX, 30, 0xe6},
      {"avx512vl", 7, 0, LEPTON_EBX, 31, 0xe6},
      {"avx512vbmi", 7, 0, LEPTON_ECX, 1, 0xe6},
      {"avx512vbmi2", 7, 0, LEPTON_ECX, 6, 0xe6},
      {"avx512vnni", 7, 0, LEPTON_ECX, 11, 0xe6},
      {"avx512bitalg", 7, 0, LEPTON_ECX, 12, 0xe6},
      {"avx512vpopcntdq", 7, 0, LEPTON_ECX, 14, 0xe6},
      {"amx-bf16", 7, 0, LEPTON_EDX, 22, 0x60006},
      {"avx512fp16", 7, 0, LEPTON_EDX, 23, 0xe6},
      {"amx-tile", 7, 0, LEPTON_EDX, 24, 0x60006},
      {"amx-int8", 7, 0, LEPTON_EDX, 25, 0x60006},
      {"avxvnni", 7, 1, LEPTON_EAX, 4, 0x06},
      {"avx512bf16", 7, 1, LEPTON_EAX, 5, 0xe6},
  };
  for (; *features != NULL; features++) {
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
      if (strcmp(*features, table[i].name) == 0 && !lepton_cpu_has(&table[i])) return *features;
    }
  }
  return NULL;
}

#else

static inline const char *lepton_cpu_lacks(const char *const *features) {
  (void)features;
  return NULL;
}

#endif

#endif
