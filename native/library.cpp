// The exported functions: which instruction set serves them, and what all have in common.
#include <string.h>

#include <atomic>

#include "kernels.h"
#include "pool.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#define MM_EXPORT extern "C" __attribute__((visibility("default")))

namespace mm {
#define MM_DECLARE(name, set) extern const Kernels kernels_##set;
MM_EACH_SET(MM_DECLARE)
}  // namespace mm

namespace {

struct Set {
  const char* name;
  const mm::Kernels* kernels;
};
#define MM_ROW(name, set) {name, &mm::kernels_##set},
constexpr Set kSets[] = {MM_EACH_SET(MM_ROW)};

#if defined(__x86_64__)
// What the processor has and the system saves when threads change (Intel's manual, volume 1, 14.3 and 15.2).
bool has(const char* name) {
  unsigned a, b, c, d, low = 0, high;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const bool fma = c >> 12 & 1, f16c = c >> 29 & 1;
  if (c >> 27 & 1) __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  unsigned features = 0, more = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) features = b, more = c;
  const bool avx2 = fma && f16c && features >> 5 & 1 && (low & 0x06) == 0x06;
  const bool avx512 = avx2 && (low & 0xe6) == 0xe6 && features >> 16 & 1 && features >> 17 & 1 && features >> 30 & 1 &&
                      features >> 31 & 1;
  if (!strcmp(name, "avx2")) return avx2;
  if (!strcmp(name, "avx512")) return avx512;
  if (!strcmp(name, "avx512-vnni")) return avx512 && more >> 11 & 1;
  return !strcmp(name, "generic");
}
#elif defined(__aarch64__) && defined(__linux__)
bool has(const char* name) {
  const unsigned long features = getauxval(AT_HWCAP);
  if (!strcmp(name, "neon-dotprod")) return features >> 20 & 1;  // HWCAP_ASIMDDP
  return true;
}
#else
bool has(const char* name) { return !strcmp(name, "generic") || !strcmp(name, "neon"); }
#endif

const mm::Kernels* best() {
  for (const Set& set : kSets)
    if (has(set.name)) return set.kernels;
  return nullptr;
}

struct Names {
  char text[128] = "";
  Names() {
    for (const Set& set : kSets)
      if (has(set.name)) strcat(strcat(text, *text ? " " : ""), set.name);
  }
};

std::atomic<const mm::Kernels*> chosen{best()};

const mm::Kernels& now() { return *chosen.load(std::memory_order_relaxed); }

}  // namespace

MM_EXPORT int32_t mm_version(void) { return MM_VERSION; }

MM_EXPORT const char* mm_instruction_sets(void) {
  static const Names names;
  return names.text;
}

MM_EXPORT int32_t mm_choose(const char* name) {
  for (const Set& set : kSets)
    if (!strcmp(set.name, name) && has(name)) {
      chosen.store(set.kernels);
      return MM_OK;
    }
  return MM_UNSUPPORTED;
}

MM_EXPORT void mm_set_threads(int32_t count) { mm::set_threads(count); }
MM_EXPORT int32_t mm_threads(void) { return mm::threads(); }

MM_EXPORT int64_t mm_panel(void) { return now().panel; }
MM_EXPORT int32_t mm_pack(const mm_weight* weight, float* packed) { return now().pack(weight, packed); }
MM_EXPORT int32_t mm_product(const mm_weight* weight, const mm_product_call* call) { return now().product(weight, call); }
MM_EXPORT int32_t mm_experts(const mm_weight* weights, int64_t count, const int32_t* experts, const mm_product_call* call) {
  return now().experts(weights, count, experts, call);
}
MM_EXPORT int32_t mm_attention(const mm_attention_call* call) { return now().attention(call); }
MM_EXPORT int32_t mm_layer_norm(const float* x, int64_t rows, int64_t cols, const float* weight, const float* bias,
                                float eps, const float* residual, float* y) {
  return now().layer_norm(x, rows, cols, weight, bias, eps, residual, y);
}
MM_EXPORT int32_t mm_rms_norm(const float* x, int64_t rows, int64_t cols, const float* weight, float eps,
                              const float* residual, float* y) {
  return now().rms_norm(x, rows, cols, weight, eps, residual, y);
}
MM_EXPORT int32_t mm_activation(int32_t kind, const float* x, int64_t count, float* y) {
  return now().activation(kind, x, count, y);
}
MM_EXPORT int32_t mm_gated(int32_t kind, const float* gate, int64_t ldg, const float* up, int64_t ldu, int64_t rows,
                           int64_t cols, float* y) {
  return now().gated(kind, gate, ldg, up, ldu, rows, cols, y);
}
MM_EXPORT int32_t mm_rotate(const mm_rotate_call* call) { return now().rotate(call); }
MM_EXPORT int32_t mm_patches(const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t size,
                             float* y) {
  return now().patches(x, batch, height, width, channels, size, y);
}
MM_EXPORT double mm_peak(int32_t kind) { return now().peak(kind); }
MM_EXPORT int32_t mm_take_rows(const float* x, int64_t batch, int64_t rows, int64_t cols, const int32_t* order,
                               int64_t count, float* y) {
  return now().take_rows(x, batch, rows, cols, order, count, y);
}
MM_EXPORT int32_t mm_mel(const mm_mel_call* call) { return now().mel(call); }
MM_EXPORT int32_t mm_scan(const int8_t* codes, int64_t rows, int64_t width, const int8_t* high, const int8_t* low,
                          int64_t queries, float* y) {
  return now().scan(codes, rows, width, high, low, queries, y);
}
MM_EXPORT int32_t mm_round(const mm_round_call* call) { return now().round(call); }
