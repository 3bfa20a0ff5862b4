// Vectors of numbers of one processor, and the functions that mechanisms are made of.
#include <cstdint>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#define INLINE static inline __attribute__((always_inline))

template <class T> struct Types;
template <> struct Types<float> {
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Small __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int mantissa = 23, bias = 127, exp_degree = 6, log_terms = 4;
  static constexpr float exp_low = -87.0f, exp_high = 88.0f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int32_t root_half = 0x3f3504f3;
};
template <> struct Types<double> {
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Small __attribute__((vector_size(VECTOR_BYTES / 2)));
  static constexpr int mantissa = 52, bias = 1023, exp_degree = 13, log_terms = 11;
  static constexpr double exp_low = -708.0, exp_high = 709.0;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr int64_t root_half = 0x3fe6a09e667f3bcdLL;
};

#if defined(__AVX2__)
#include <immintrin.h>
template <class T> struct Wide;
#endif
#if defined(__AVX512F__)
template <> struct Wide<float> {
  typedef __mmask16 Mask;
  INLINE __m512 smaller(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
  INLINE __m512 nearest(__m512 x) { return _mm512_roundscale_ps(x, 8); }
  INLINE __m512 scaled(__m512 x, __m512 n) { return _mm512_scalef_ps(x, n); }
  INLINE __m512 two_to(__m512 n) { return scaled(_mm512_set1_ps(1.0f), n); }
  INLINE __m512 estimated_over(__m512 x) { return _mm512_rcp14_ps(x); }
  INLINE Mask above(__m512 x, float limit) { return _mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLE_UQ); }
  INLINE bool none(Mask of) { return of == 0; }
  INLINE __m512 choose(Mask of, __m512 a, __m512 b) { return _mm512_mask_mov_ps(b, of, a); }
};
template <> struct Wide<double> {
  INLINE __m512d smaller(__m512d a, __m512d b) { return _mm512_min_pd(a, b); }
  INLINE __m512d nearest(__m512d x) { return _mm512_roundscale_pd(x, 8); }
  INLINE __m512d two_to(__m512d n) { return _mm512_scalef_pd(_mm512_set1_pd(1.0), n); }
};
#elif defined(__AVX2__)
template <> struct Wide<float> {
  typedef __m256 Mask;
  INLINE __m256 nearest(__m256 x) { return _mm256_round_ps(x, 8); }
  INLINE __m256 two_to(__m256 n) {
    const __m256 normal = _mm256_min_ps(_mm256_max_ps(n, _mm256_set1_ps(-126.0f)), _mm256_set1_ps(127.0f));
    return (__m256)_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(normal), _mm256_set1_epi32(127)), 23);
  }
  INLINE __m256 scaled(__m256 x, __m256 n) { return x * two_to(n); }
  INLINE __m256 estimated_over(__m256 x) { return _mm256_rcp_ps(x); }
  INLINE Mask above(__m256 x, float limit) { return _mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_NLE_UQ); }
  INLINE bool none(Mask of) { return _mm256_movemask_ps(of) == 0; }
  INLINE __m256 choose(Mask of, __m256 a, __m256 b) { return _mm256_blendv_ps(b, a, of); }
};
#endif

#if defined(__AVX2__)
struct Short {  // in single precision
  typedef Types<float>::V V;
  typedef Wide<float> W;
  INLINE V over(V x) {
    const V r = W::estimated_over(x);
    return r + r * (1.0f - x * r);
  }
  // 2^r - 1 for |r| <= 1/2, to 1e-7 of 2^r
  INLINE V fraction(V r) {
    return r * ((((0.0013264726f * r + 0.0096715131f) * r + 0.0555073375f) * r + 0.2402224208f) * r +
                0.6931469776f);
  }
  INLINE V two_to_the(V y) {
    const V whole = W::nearest(y);
    return W::scaled(1.0f + fraction(y - whole), whole);
  }
  // Most steps are short beside most time constants: then a polynomial does, to 5e-7. A number has the same
  // value whichever way its neighbours go.
  INLINE V expm1(V x) {
    const V near = x * ((((0.0083333190f * x + 0.0418792529f) * x + 0.1666694575f) * x + 0.4999935198f) * x +
                        0.9999999433f);
    const W::Mask is_far = W::above(x * x, 0.1225f);
    if (__builtin_expect(W::none(is_far), 1)) return near;
    const V y = x * 1.4426950409f, whole = W::nearest(y), power = W::two_to(whole);
    return W::choose(is_far, power * fraction(y - whole) + (power - 1.0f), near);
  }
};
#endif

static constexpr double inverse_factorial[] = {
    1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
    1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};

template <class T> struct Maths {
  typedef typename Types<T>::V V;
  typedef typename Types<T>::I I;
  typedef typename Types<T>::Small Small;
  typedef Types<T> C;
  static constexpr int lanes = VECTOR_BYTES / sizeof(T);

  INLINE V splat(T c) { return V{} + c; }

  // e^x = 2^n (1 + p), |x - n ln 2| <= ln 2 / 2
  INLINE void split(V x, V &power, V &p) {
#if defined(__AVX512F__)
    x = Wide<T>::smaller(splat(C::exp_high), x);
    const V whole = Wide<T>::nearest(x * T(1.4426950408889634));
    power = Wide<T>::two_to(whole);
#else
    x = x < C::exp_low ? splat(C::exp_low) : x;
    x = x > C::exp_high ? splat(C::exp_high) : x;
    // Truncation rounds once the number is positive.
    const Small n = __builtin_convertvector(x * T(1.4426950408889634) + T(1200.5), Small) - 1200;
    const V whole = __builtin_convertvector(n, V);
    power = (V)((__builtin_convertvector(n, I) + C::bias) << C::mantissa);
#endif
    const V r = (x - whole * C::ln2_high) - whole * C::ln2_low;
    V sum = splat(T(inverse_factorial[C::exp_degree]));
#pragma GCC unroll 16
    for (int k = C::exp_degree - 1; k > 0; --k) sum = sum * r + T(inverse_factorial[k]);
    p = sum * r;
  }
  INLINE V over(V x) {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return Short::over(x);
#endif
    return T(1) / x;
  }
  INLINE V exp(V x) {
    V power, p;
    split(x, power, p);
    return power + power * p;
  }
  // e^(x c) that is known to fit into a number
  INLINE V exp_of(V x, double c) {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return Short::two_to_the(x * T(c * 1.4426950408889634));
#endif
    return exp(x * T(c));
  }
  INLINE V expm1(V x) {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return Short::expm1(x);
#endif
    V power, p;
    split(x, power, p);
    return power * p + (power - T(1));
  }
  INLINE V log(V x) {
    const I bits = (I)x - C::root_half;
    const I exponent = bits >> C::mantissa;
    const I ones = (I{} + 1) << C::mantissa;
    const V m = (V)((bits & (ones - 1)) + C::root_half);
    const V s = (m - T(1)) / (m + T(1)), s2 = s * s;
    V sum = splat(T(1.0 / (2 * C::log_terms + 1)));
#pragma GCC unroll 16
    for (int k = C::log_terms - 1; k >= 0; --k) sum = sum * s2 + T(1.0 / (2 * k + 1));
    const V whole = __builtin_convertvector(exponent, V);
    const V found = whole * C::ln2_high + (whole * C::ln2_low + T(2) * s * sum);
    const V none = splat(T(__builtin_nan("")));
    return x > T(0) ? found : (x == T(0) ? splat(-T(__builtin_inf())) : none);
  }
  INLINE V log10(V x) { return log(x) * T(0.43429448190325182765); }
  INLINE V pow(V x, V y) { return exp(y * log(x)); }
  INLINE V fabs(V x) { return x < T(0) ? -x : x; }
  INLINE V sqrt(V x) {
    V found;
    for (int l = 0; l < lanes; ++l) found[l] = __builtin_sqrt(x[l]);
    return found;
  }
};
