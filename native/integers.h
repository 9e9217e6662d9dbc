// Sums of products of bytes, and how bytes are moved about, for each instruction set.
#pragma once
#include "vector.h"

namespace {

// Codes of 8 bits are signed, q - 128, where a processor multiplies nothing else; of fewer bits they are signed anyway.
#if defined(__aarch64__)
constexpr bool kSignedCodes = true;
#else
constexpr bool kSignedCodes = false;
#endif

#if defined(__AVX512F__)
#define MM_M(v) reinterpret_cast<__m512i>(v)
#elif defined(__AVX2__)
#define MM_M(v) reinterpret_cast<__m256i>(v)
#elif defined(__SSE2__)
#define MM_M(v) reinterpret_cast<__m128i>(v)
#endif

MM_INLINE vi load_words(const void* p) {
  vi v;
  memcpy(&v, p, sizeof v);
  return v;
}
MM_INLINE void store_words(void* p, vi v) { memcpy(p, &v, sizeof v); }
MM_INLINE vi all_words(int32_t x) { return x - vi{}; }
MM_INLINE vi word_in_all(const int8_t* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return all_words(word);
}
MM_INLINE vi lane_numbers() {
  vi v{};
  for (int i = 0; i < W; i++) v[i] = i;
  return v;
}
MM_INLINE vf floats(vi v) { return __builtin_convertvector(v, vf); }

MM_INLINE vf multiply_add(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(__aarch64__)
  return reinterpret_cast<vf>(
      vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}

// Whether `dot` has another way for codes of 8 bits.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
constexpr bool kWideDiffers = true;
#else
constexpr bool kWideDiffers = false;
#endif

// acc + in each lane of 32 bits the four products of codes (bytes from 0; Wide: of 8 bits, else 7) and inputs (bytes of
// -127 to 127), exactly: nothing saturates.
template <bool Wide>
MM_INLINE vi dot(vi acc, vi codes, vi inputs) {
#if defined(__AVX512VNNI__)
  return reinterpret_cast<vi>(_mm512_dpbusd_epi32(MM_M(acc), MM_M(codes), MM_M(inputs)));
#elif defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#if defined(__AVX512F__)
#define MM_X(name) _mm512_##name
#elif defined(__AVX2__)
#define MM_X(name) _mm256_##name
#else
#define MM_X(name) _mm_##name
#endif
#if defined(__AVX2__)
  if (!Wide)  // 2 * 127 * 127 < 2^15
    return acc + reinterpret_cast<vi>(
                     MM_X(madd_epi16)(MM_X(maddubs_epi16)(MM_M(codes), MM_M(inputs)), MM_X(set1_epi16)(1)));
#endif
  const auto even_codes = MM_M(codes & 0x00ff00ff), odd_codes = MM_X(srli_epi16)(MM_M(codes), 8);
  const auto even = MM_X(srai_epi16)(MM_X(slli_epi16)(MM_M(inputs), 8), 8), odd = MM_X(srai_epi16)(MM_M(inputs), 8);
  return acc + reinterpret_cast<vi>(MM_X(madd_epi16)(even_codes, even)) +
         reinterpret_cast<vi>(MM_X(madd_epi16)(odd_codes, odd));
#undef MM_X
#elif defined(__ARM_FEATURE_DOTPROD)
  return reinterpret_cast<vi>(vdotq_s32(reinterpret_cast<int32x4_t>(acc), reinterpret_cast<int8x16_t>(codes),
                                        reinterpret_cast<int8x16_t>(inputs)));
#elif defined(__aarch64__)
  const int8x16_t a = reinterpret_cast<int8x16_t>(codes), b = reinterpret_cast<int8x16_t>(inputs);
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b))), high = vpaddlq_s16(vmull_high_s8(a, b));
  return acc + reinterpret_cast<vi>(vpaddq_s32(low, high));
#else
  for (int i = 0; i < W; i++)
    for (int j = 0; j < 32; j += 8) acc[i] += int32_t(uint32_t(codes[i]) >> j & 255) * int8_t(uint32_t(inputs[i]) >> j);
  return acc;
#endif
}

// Lane i is number at[i] of v.
MM_INLINE vf permute(vf v, vi at) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_permutexvar_ps(MM_M(at), reinterpret_cast<__m512>(v)));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_permutevar8x32_ps(reinterpret_cast<__m256>(v), MM_M(at)));
#elif defined(__aarch64__)
  const vi bytes = at * 0x04040404 + 0x03020100;
  return reinterpret_cast<vf>(vqtbl1q_u8(reinterpret_cast<uint8x16_t>(v), reinterpret_cast<uint8x16_t>(bytes)));
#else
  float numbers[W];
  store(numbers, v);
  vf y;
  for (int i = 0; i < W; i++) y[i] = numbers[at[i]];
  return y;
#endif
}

// W rows of W words become columns.
MM_INLINE void transpose(vi r[W]) {
#if defined(__AVX512F__)
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {  // pairs of words, then of pairs, within each 128 bits
    a[i] = _mm512_unpacklo_epi32(MM_M(r[i]), MM_M(r[i + 1]));
    a[i + 1] = _mm512_unpackhi_epi32(MM_M(r[i]), MM_M(r[i + 1]));
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      b[i + 2 * h] = _mm512_unpacklo_epi64(a[i + h], a[i + 2 + h]);
      b[i + 2 * h + 1] = _mm512_unpackhi_epi64(a[i + h], a[i + 2 + h]);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {  // b[4 q + i] has words i, 4 + i, 8 + i and 12 + i of rows 4 q to 4 q + 3
    const __m512i low = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88);
    const __m512i low_odd = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xdd);
    const __m512i high = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
    const __m512i high_odd = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xdd);
    r[i] = reinterpret_cast<vi>(_mm512_shuffle_i32x4(low, high, 0x88));
    r[4 + i] = reinterpret_cast<vi>(_mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
    r[8 + i] = reinterpret_cast<vi>(_mm512_shuffle_i32x4(low, high, 0xdd));
    r[12 + i] = reinterpret_cast<vi>(_mm512_shuffle_i32x4(low_odd, high_odd, 0xdd));
  }
#else
  int32_t words[W][W];
  for (int i = 0; i < W; i++)
    for (int j = 0; j < W; j++) words[j][i] = r[i][j];
  for (int i = 0; i < W; i++) r[i] = load_words(words[i]);
#endif
}

// The low bytes of all lanes.
MM_INLINE void store_bytes(int8_t* p, vi v) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm512_cvtepi32_epi8(MM_M(v));
  memcpy(p, &bytes, 16);
#elif defined(__AVX2__)
  const __m256i low = _mm256_shuffle_epi8(MM_M(v), _mm256_set1_epi32(0x0c080400));
  const int32_t two[2] = {_mm256_extract_epi32(low, 0), _mm256_extract_epi32(low, 4)};
  memcpy(p, two, 8);
#else
  for (int i = 0; i < W; i++) p[i] = int8_t(v[i]);
#endif
}

// The same of four vectors, one after the other, whose lanes are of -128 to 127.
MM_INLINE void store_bytes(int8_t* p, vi a, vi b, vi c, vi d) {
#if defined(__AVX512F__)
  const __m512i ab = _mm512_packs_epi32(MM_M(a), MM_M(b)), cd = _mm512_packs_epi32(MM_M(c), MM_M(d));
  const vi order = (lane_numbers() & 3) * 4 + (lane_numbers() >> 2);  // 128 bits have four lanes of each
  const vi bytes = reinterpret_cast<vi>(_mm512_permutexvar_epi32(MM_M(order), _mm512_packs_epi16(ab, cd)));
  memcpy(p, &bytes, sizeof bytes);
#else
  store_bytes(p, a), store_bytes(p + W, b), store_bytes(p + 2 * W, c), store_bytes(p + 3 * W, d);
#endif
}

MM_INLINE int32_t greatest_word(vi v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32(MM_M(v));
#else
  int32_t m = v[0];
  for (int i = 1; i < W; i++) m = v[i] > m ? v[i] : m;
  return m;
#endif
}
MM_INLINE int32_t sum_of_words(vi v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32(MM_M(v));
#else
  int32_t s = 0;
  for (int i = 0; i < W; i++) s += v[i];
  return s;
#endif
}

}  // namespace
