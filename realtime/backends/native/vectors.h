// Vectors of eight floats and the functions that network and transform need.
//
// They use the compiler's vector types, one AVX register each. No sum depends on the number of
// streams in a step.
#pragma once

#include <cstdint>
#include <cstring>

#include <immintrin.h>

namespace stemwire {

constexpr int kLanes = 8;

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t IntVec __attribute__((vector_size(kLanes * sizeof(int32_t))));

constexpr int padded(int count, int multiple = kLanes) {
  return (count + multiple - 1) / multiple * multiple;
}

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// Prefetch a cache line without waiting; any address is allowed.
inline void prefetch(const void* p) { __builtin_prefetch(p); }

// Half precision, as bits: values that it represents exactly take half the memory bandwidth.
using Half = uint16_t;

inline Vec load(const Half* p) {
  return reinterpret_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

inline Half half_of(float x) { return _cvtss_sh(x, 0); }

inline Vec splat(float x) { return x - Vec{}; }

inline Vec select(IntVec mask, Vec yes, Vec no) {
  return reinterpret_cast<Vec>((mask & reinterpret_cast<IntVec>(yes)) |
                               (~mask & reinterpret_cast<IntVec>(no)));
}

// True in the first `count` lanes.
inline IntVec first(int count) {
  const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7};
  return lane < count;
}

// Stores the first `count` lanes; memory beyond them is not touched.
inline void store_first(float* p, Vec v, int count) {
  if (count >= kLanes) return store(p, v);
  _mm256_maskstore_ps(p, reinterpret_cast<__m256i>(first(count)), v);
}

inline float sum(Vec v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

inline Vec greater_of(Vec a, Vec b) { return select(a > b, a, b); }

// Even and odd lanes of two vectors, and the inverse.
inline void deinterleave(Vec low, Vec high, Vec& even, Vec& odd) {
  const IntVec evens = {0, 2, 4, 6, 8, 10, 12, 14}, odds = {1, 3, 5, 7, 9, 11, 13, 15};
  even = __builtin_shuffle(low, high, evens);
  odd = __builtin_shuffle(low, high, odds);
}

inline void interleave(Vec even, Vec odd, Vec& low, Vec& high) {
  const IntVec lows = {0, 8, 1, 9, 2, 10, 3, 11}, highs = {4, 12, 5, 13, 6, 14, 7, 15};
  low = __builtin_shuffle(even, odd, lows);
  high = __builtin_shuffle(even, odd, highs);
}

inline Vec square_root(Vec v) {
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}

// e^x to a few units in the last place; 0 where the true value is subnormal.
// x = n ln 2 + r with |r| <= ln 2 / 2, and a Taylor series for e^r. NaN stays NaN.
inline Vec exponential(Vec x) {
  constexpr float kSmallest = -87.3f, kLargest = 88.0f;
  constexpr float kRounder = 12582912.0f;                  // 1.5 * 2^23: no fraction fits beside it
  constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;  // ln 2 in two parts
  const Vec y = select(x > kLargest, splat(kLargest), x);
  const Vec n = (y * 1.44269504f + kRounder) - kRounder;
  const Vec r = (y - n * kHigh) - n * kLow;
  Vec series = splat(1.0f / 5040);
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const Vec within = select(y < kSmallest, splat(0.0f), n);  // so that 2^n can be built
  const IntVec power = (__builtin_convertvector(within, IntVec) + 127) << 23;
  return select(y < kSmallest, splat(0.0f), series * reinterpret_cast<Vec>(power));
}

// ln x for normal x > 0: x = 2^n m with m in [sqrt(1/2), sqrt 2), ln m = 2 artanh((m - 1) / (m + 1)).
inline Vec logarithm(Vec x) {
  constexpr int32_t kRootOfHalf = 0x3f3504f3;
  const IntVec bits = reinterpret_cast<IntVec>(x);
  const IntVec n = (bits - kRootOfHalf) >> 23;
  const Vec m = reinterpret_cast<Vec>(bits - (n << 23));
  const Vec s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
  Vec series = splat(2.0f / 9);
  series = series * s2 + 2.0f / 7;
  series = series * s2 + 2.0f / 5;
  series = series * s2 + 2.0f / 3;
  series = series * s2 + 2.0f;
  return __builtin_convertvector(n, Vec) * 0.69314718f + s * series;
}

// tanh x: a series for small x, otherwise from e^-2|x|.
inline Vec hyperbolic_tangent(Vec x) {
  const Vec x2 = x * x, size = select(x < 0.0f, -x, x);
  Vec small = splat(62.0f / 2835);
  small = small * x2 - 17.0f / 315;
  small = small * x2 + 2.0f / 15;
  small = small * x2 - 1.0f / 3;
  small = small * x2 + 1.0f;
  const Vec e = exponential(-2.0f * size), large = (1.0f - e) / (1.0f + e);
  return select(size < 0.25f, small * x, select(x < 0.0f, -large, large));
}

}  // namespace stemwire
