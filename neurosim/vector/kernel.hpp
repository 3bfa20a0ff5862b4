// One cell, many individuals: arrays are [node][individual], a vector of individuals at a time.
// Units: mV, ms, mA/cm2, S/cm2, uF/cm2; areas in um2 / 100, so that density times area is nA and uS.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

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

#if defined(__AVX512F__)
#include <immintrin.h>
template <class T> struct Wide;
template <> struct Wide<float> {
  INLINE __m512 smaller(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
  INLINE __m512 nearest(__m512 x) { return _mm512_roundscale_ps(x, 8); }
  INLINE __m512 two_to(__m512 n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
  // 2^r - 1 for |r| <= 1/2, to 1e-7 of 2^r
  INLINE __m512 fraction(__m512 r) {
    return r * ((((0.0013264726f * r + 0.0096715131f) * r + 0.0555073375f) * r + 0.2402224208f) * r +
                0.6931469776f);
  }
  INLINE __m512 two_to_the(__m512 y) {
    const __m512 whole = nearest(y);
    return _mm512_scalef_ps(1.0f + fraction(y - whole), whole);
  }
  // Most steps are short beside most time constants: then a polynomial does, to 5e-7. A number has the same
  // value whichever way its neighbours go.
  INLINE __m512 expm1(__m512 x) {
    const __m512 near = x * ((((0.0083333190f * x + 0.0418792529f) * x + 0.1666694575f) * x + 0.4999935198f) * x +
                             0.9999999433f);
    const __mmask16 is_far = _mm512_cmp_ps_mask(x * x, _mm512_set1_ps(0.1225f), _CMP_NLE_UQ);
    if (__builtin_expect(is_far == 0, 1)) return near;
    const __m512 y = x * 1.4426950409f, whole = nearest(y), power = two_to(whole);
    return _mm512_mask_mov_ps(near, is_far, power * fraction(y - whole) + (power - 1.0f));
  }
  INLINE __m512 over(__m512 x) {
    const __m512 r = _mm512_rcp14_ps(x);
    return r + r * (1.0f - x * r);
  }
};
template <> struct Wide<double> {
  INLINE __m512d smaller(__m512d a, __m512d b) { return _mm512_min_pd(a, b); }
  INLINE __m512d nearest(__m512d x) { return _mm512_roundscale_pd(x, 8); }
  INLINE __m512d two_to(__m512d n) { return _mm512_scalef_pd(_mm512_set1_pd(1.0), n); }
  INLINE __m512d over(__m512d x) { return 1.0 / x; }
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
#if defined(__AVX512F__)
    return Wide<T>::over(x);
#else
    return T(1) / x;
#endif
  }
  INLINE V exp(V x) {
    V power, p;
    split(x, power, p);
    return power + power * p;
  }
  // e^(x c) that is known to fit into a number
  INLINE V exp_of(V x, double c) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return Wide<T>::two_to_the(x * T(c * 1.4426950408889634));
#endif
    return exp(x * T(c));
  }
  INLINE V expm1(V x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return Wide<T>::expm1(x);
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

struct Setup {
  int32_t n, n_nodes, n_rows, n_phases, n_places, n_bare, stimulated;
  const int32_t *parent;        // [node], of node 0 unused; parents come before their children
  const double *area;           // [node]
  const int32_t *cm_row;        // [node], -1 where there is no membrane
  const int32_t *bare;          // nodes without membrane
  const double *axial;          // [node][n], uS to the parent
  const double *rows;           // [row][n]
  const int32_t *kind_size;     // [kind]
  const int32_t *kind_nodes;    // of all kinds, one after the other
  const int32_t *kind_rows;     // [node of a kind][constant], the same
  double v_init, amplitude, start_ms, stop_ms, holding, largest_bend, highest_rest;
  const int64_t *steps;         // [phase]
  const double *dt;
  const int32_t *order, *every; // 3: second order, damped
  const int32_t *coarse;        // whether its steps are long: then who is not quiet is flagged
  const int32_t *places;        // nodes that are recorded; the first one is watched
  int64_t n_records;
  void *recorded;               // [n][place][record], of the type that is calculated with
  uint8_t *ok, *quiet;          // [n]
};

static constexpr double RUNAWAY_MV = 1000.0;

template <class T> struct Compartments {
  typedef typename Types<T>::V V;
  int size;
  const int32_t *nodes, *rows;
  V *stored;
};

template <class T, int N_KINDS> struct Block {
  typedef typename Types<T>::V V;
  V *v, *dv, *rhs, *d, *diagonal, *rows;
  T *area;
  Compartments<T> kind[N_KINDS + 1];
};

struct Memory {
  void *places[16];
  int used = 0;
  template <class V> V *take(int64_t count) {
    const size_t bytes = (count + 1) * sizeof(V);
    void *place = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    std::memset(place, 0, bytes);
    places[used++] = place;
    return static_cast<V *>(place);
  }
  ~Memory() {
    while (used) std::free(places[--used]);
  }
};

// From the root outwards: x[i] is what node i would be if its parent stood still, and becomes what it is.
template <class V> static void substitute(V *x, const V *share, const int32_t *parent, int n) {
  V last = x[0];
  for (int i = 1; i < n; ++i) {
    const int p = parent[i];
    if (p != i - 1) last = x[p];
    last = x[i] + share[i] * last;
    x[i] = last;
  }
}

template <class T, class Membranes> static void run_block(const Setup &s, int first) {
  typedef Maths<T> M;
  typedef typename M::V V;
  constexpr int lanes = M::lanes, n_kinds = Membranes::n_kinds;
  const int n = s.n_nodes;
  const auto fill = [&](V &to, const double *from) {
    for (int l = 0; l < lanes; ++l) to[l] = T(from[first + l < s.n ? first + l : s.n - 1]);
  };
  Memory memory;
  Block<T, n_kinds> b;
  for (V **of : {&b.v, &b.dv, &b.rhs, &b.d, &b.diagonal}) *of = memory.take<V>(n);
  b.rows = memory.take<V>(s.n_rows);
  b.area = memory.take<T>(n);
  V *axial = memory.take<V>(n), *capacity = memory.take<V>(n);
  V *share = memory.take<V>(n), *over = memory.take<V>(n);
  for (int r = 0; r < s.n_rows; ++r) fill(b.rows[r], s.rows + int64_t(r) * s.n);
  for (int i = 1; i < n; ++i) fill(axial[i], s.axial + int64_t(i) * s.n);
  for (int i = 0; i < n; ++i) {
    b.v[i] = M::splat(T(s.v_init));
    b.area[i] = T(s.area[i]);
  }
  const int32_t *nodes = s.kind_nodes, *rows = s.kind_rows;
  int stored = 0;
  for (int k = 0; k < n_kinds; ++k) stored += s.kind_size[k] * Membranes::n_stored[k];
  V *free = memory.take<V>(stored);
  for (int k = 0; k < n_kinds; ++k) {
    const int size = s.kind_size[k];
    b.kind[k] = {size, nodes, rows, free};
    nodes += size;
    rows += size * Membranes::n_rows[k];
    free += size * Membranes::n_stored[k];
  }
  Membranes::template initial<T>(b);

  bool bad[lanes] = {}, loud[lanes] = {};
  int64_t record = 0;
  T *const recorded = static_cast<T *>(s.recorded);
  const auto keep = [&]() {
    bool all_bad = true;
    for (int l = 0; l < lanes; ++l) {
      const double watched = b.v[s.places[0]][l];
      bad[l] = bad[l] || !(watched < RUNAWAY_MV && watched > -RUNAWAY_MV);
      all_bad = all_bad && bad[l];
      if (first + l < s.n)
        for (int p = 0; p < s.n_places; ++p)
          recorded[(int64_t(first + l) * s.n_places + p) * s.n_records + record] = b.v[s.places[p]][l];
    }
    ++record;
    return !all_bad;
  };
  bool going = keep();
  double begun = 0.0;
  for (int phase = 0; phase < s.n_phases && going; ++phase) {
    const double dt = s.dt[phase];
    const bool second = s.order[phase] >= 2, damped = s.order[phase] == 3;
    const T reach = second ? T(2) : T(1);
    const double part_of_step = damped ? 1.0 - __builtin_sqrt(0.5) : 1.0 / reach;
    for (int i = 0; i < n; ++i) {
      const double scale = 1e-3 / (dt * part_of_step) * s.area[i];
      capacity[i] = s.cm_row[i] < 0 ? V{} : b.rows[s.cm_row[i]] * T(scale);
      b.diagonal[i] = capacity[i] + axial[i];
    }
    Membranes::template draw<T>(b);
    V before = V{}, earlier = V{};  // the watched voltage one and two steps ago
    for (int64_t step = 0; step < s.steps[phase] && going; ++step) {
      const double middle = begun + (step + 0.5) * dt;
      for (int k = 0; k < s.n_bare; ++k) {
        b.rhs[s.bare[k]] = V{};
        b.d[s.bare[k]] = b.diagonal[s.bare[k]];
      }
      const bool on = middle >= s.start_ms && middle < s.stop_ms;
      b.rhs[s.stimulated] += T(s.holding + (on ? s.amplitude : 0.0));
      // In an unbranched run the next node is the parent: what it receives stays in registers.
      V next_rhs = V{}, next_d = V{};
      for (int i = n - 1; i > 0; --i) {
        const int p = s.parent[i];
        const V g = axial[i], flow = g * (b.v[p] - b.v[i]);
        const V rhs = (b.rhs[i] + flow) + next_rhs;
        over[i] = M::over(b.d[i] + next_d);
        const V part = g * over[i];
        b.dv[i] = rhs * over[i];
        share[i] = part;
        next_rhs = part * rhs - flow;
        next_d = g - part * g;
        if (p != i - 1) {
          b.rhs[p] += next_rhs;
          b.d[p] += next_d;
          next_rhs = next_d = V{};
        }
      }
      over[0] = M::over(b.d[0] + next_d);
      b.dv[0] = (b.rhs[0] + next_rhs) * over[0];
      substitute(b.dv, share, s.parent, n);
      if (damped) {
        // A second stage with the same matrix, from where the first one came to: its right side is what the
        // first one moved.
        V *const again = b.d;
        for (int i = 0; i < n; ++i) b.rhs[i] = V{};
        V next = V{};
        for (int i = n - 1; i > 0; --i) {
          const int p = s.parent[i];
          const V rhs = (capacity[i] * b.dv[i] + b.rhs[i]) + next;
          again[i] = rhs * over[i];
          next = share[i] * rhs;
          if (p != i - 1) {
            b.rhs[p] += next;
            next = V{};
          }
        }
        again[0] = (capacity[0] * b.dv[0] + b.rhs[0] + next) * over[0];
        substitute(again, share, s.parent, n);
        const T weight = T(1.0 + __builtin_sqrt(2.0));
        for (int i = 0; i < n; ++i) {
          const V whole = b.dv[i] + weight * again[i];
          b.v[i] += whole;
          b.dv[i] = T(0.5) * whole;
        }
      } else {
        for (int i = 0; i < n; ++i) b.v[i] += reach * b.dv[i];
      }
      Membranes::template advance<T>(b, T(dt), T(second));
      if (s.coarse[phase]) {
        const V now = b.v[s.places[0]], bend = now - before - (before - earlier);
        for (int l = 0; l < lanes; ++l)
          loud[l] = loud[l] || now[l] > s.highest_rest || (step > 1 && __builtin_fabs(bend[l]) > s.largest_bend);
        earlier = before;
        before = now;
      }
      if ((step + 1) % s.every[phase] == 0) going = keep();
    }
    begun += s.steps[phase] * dt;
  }
  for (int l = 0; l < lanes && first + l < s.n; ++l) {
    s.ok[first + l] = !bad[l];
    s.quiet[first + l] = !loud[l];
    for (int p = 0; p < s.n_places; ++p)
      for (int64_t r = record; r < s.n_records; ++r)
        recorded[(int64_t(first + l) * s.n_places + p) * s.n_records + r] = __builtin_nan("");
  }
}

template <class T, class Membranes> static void run_all(const Setup &s) {
#if defined(__SSE__)
  const unsigned kept = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(kept | 0x8040);  // denormals are zero: a channel that closes would slow down
#endif
  for (int first = 0; first < s.n; first += Maths<T>::lanes) run_block<T, Membranes>(s, first);
#if defined(__SSE__)
  __builtin_ia32_ldmxcsr(kept);
#endif
}
