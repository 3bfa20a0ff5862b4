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

// One run of each individual; times in ticks.
struct Protocol {
  double amplitude, holding;    // nA
  int64_t start, stop, end;
  int64_t n_records;
  const int64_t *grid;          // [record], ascending from 0
  void *recorded;               // [n][place][record], of the type that is calculated with
  uint8_t *ok;                  // [n]
};

struct Setup {
  int32_t n, n_nodes, n_rows, n_places, n_bare, stimulated, n_protocols;
  int32_t order;                // 3: second order, damped
  const int32_t *parent;        // [node], of node 0 unused; parents come before their children
  const double *area;           // [node]
  const int32_t *cm_row;        // [node], -1 where there is no membrane
  const int32_t *bare;          // nodes without membrane
  const double *axial;          // [node][n], uS to the parent
  const double *rows;           // [row][n]
  const int32_t *kind_size;     // [kind]
  const int32_t *kind_nodes;    // of all kinds, one after the other
  const int32_t *kind_rows;     // [node of a kind][constant], the same
  const int32_t *places;        // nodes that are recorded; the first one is watched
  double v_init, tick_ms, largest_bend;
  int64_t shortest, longest_near, longest_away, near;  // steps, and how long after the stimulus is near it
  const Protocol *protocols;
};

static constexpr double RUNAWAY_MV = 1000.0;
static constexpr int LARGEST_GROWTH = 2;  // half of a step is what the next one may be longer

template <class T> struct Compartments {
  typedef typename Types<T>::V V;
  int size;
  const int32_t *nodes, *rows;
  V *stored;
};

template <class T, int N_KINDS> struct Block {
  typedef typename Types<T>::V V;
  V *v, *slope, *dv, *rhs, *d, *capacity, *axial, *rows;
  V per_step;                   // what the capacity is multiplied with
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

// What one lane of the vectors is at: one individual in one protocol, with a clock of its own.
struct Lane {
  const Protocol *protocol = nullptr;
  int individual = 0;
  int64_t now = 0, step = 1, last_step = 1, record = 0;

  bool near(int64_t after) const { return now >= protocol->start && now < protocol->stop + after; }
  // A step ends where the current changes.
  int64_t until_change(int64_t step) const {
    for (const int64_t change : {protocol->start, protocol->stop, protocol->end})
      if (now < change) return now + step < change ? step : change - now;
    return step;
  }
};

template <class T, class Membranes> struct Simulation {
  typedef Maths<T> M;
  typedef typename M::V V;
  static constexpr int lanes = M::lanes, n_kinds = Membranes::n_kinds;

  const Setup &s;
  const int n;
  Memory memory;
  Block<T, n_kinds> b;
  V *share, *over, *kept;
  int64_t n_kept;               // stored states, rhs and d lie one after the other
  Lane lane[lanes];
  int64_t begun = 0;
  int active = 0;

  explicit Simulation(const Setup &setup) : s(setup), n(setup.n_nodes) {
    int64_t stored = 0;
    for (int k = 0; k < n_kinds; ++k) stored += s.kind_size[k] * Membranes::n_stored[k];
    n_kept = stored + 2 * n;
    V *free = memory.take<V>(n_kept);
    kept = memory.take<V>(n_kept);
    b.rhs = free + stored;
    b.d = b.rhs + n;
    for (V **of : {&b.v, &b.dv, &b.slope, &b.capacity, &b.axial, &share, &over}) *of = memory.take<V>(n);
    b.rows = memory.take<V>(s.n_rows);
    b.area = memory.take<T>(n);
    for (int i = 0; i < n; ++i) b.area[i] = T(s.area[i]);
    const int32_t *nodes = s.kind_nodes, *rows = s.kind_rows;
    for (int k = 0; k < n_kinds; ++k) {
      const int size = s.kind_size[k];
      b.kind[k] = {size, nodes, rows, free};
      nodes += size;
      rows += size * Membranes::n_rows[k];
      free += size * Membranes::n_stored[k];
    }
  }

  // Give each free lane the next individual and protocol, as long as there are some; the other lanes stay as
  // they are.
  void begin() {
    bool is_new[lanes] = {};
    const int64_t total = int64_t(s.n) * s.n_protocols, before = begun;
    for (int l = 0; l < lanes && begun < total; ++l) {
      if (lane[l].protocol) continue;
      const Protocol *protocol = s.protocols + begun / s.n;
      lane[l] = {protocol, int(begun % s.n), 0, s.shortest, s.shortest, 0};
      lane[l].step = lane[l].until_change(s.shortest);
      is_new[l] = true;
      fill(l);
      keep(l, b.v);
      ++begun;
      ++active;
    }
    if (begun == before) return;
    V *const all = b.kind[0].stored;
    std::memcpy(kept, all, n_kept * sizeof(V));
    set_step();
    Membranes::template initial<T>(b);
    Membranes::template draw<T>(b);
    for (int64_t i = 0; i < n_kept; ++i)
      for (int l = 0; l < lanes; ++l)
        if (!is_new[l]) all[i][l] = kept[i][l];
  }

  void fill(int l) {
    const int k = lane[l].individual;
    for (int r = 0; r < s.n_rows; ++r) b.rows[r][l] = T(s.rows[int64_t(r) * s.n + k]);
    for (int i = 0; i < n; ++i) {
      if (i) b.axial[i][l] = T(s.axial[int64_t(i) * s.n + k]);
      if (s.cm_row[i] >= 0) b.capacity[i][l] = T(1e-3 * s.area[i] * s.rows[int64_t(s.cm_row[i]) * s.n + k]);
      b.v[i][l] = T(s.v_init);
      b.slope[i][l] = T(0);
    }
  }

  void set_step() {
    const double part = s.order == 3 ? 1.0 - __builtin_sqrt(0.5) : s.order == 2 ? 0.5 : 1.0;
    for (int l = 0; l < lanes; ++l) b.per_step[l] = T(1.0 / (lane[l].step * s.tick_ms * part));
  }

  void inject() {
    V current;
    for (int l = 0; l < lanes; ++l) {
      const Lane &at = lane[l];
      const Protocol *given = at.protocol;
      const int64_t twice = 2 * at.now + at.step;  // its middle
      const bool on = given && twice >= 2 * given->start && twice < 2 * given->stop;
      current[l] = given ? T(given->holding + (on ? given->amplitude : 0.0)) : T(0);
    }
    b.rhs[s.stimulated] += current;
  }

  void solve() {
    for (int k = 0; k < s.n_bare; ++k) {
      b.rhs[s.bare[k]] = V{};
      b.d[s.bare[k]] = b.axial[s.bare[k]];
    }
    inject();
    // In an unbranched run the next node is the parent: what it receives stays in registers.
    V next_rhs = V{}, next_d = V{};
    for (int i = n - 1; i > 0; --i) {
      const int p = s.parent[i];
      const V g = b.axial[i], flow = g * (b.v[p] - b.v[i]);
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
  }

  // A second stage with the same matrix, from where the first one came to: its right side is what the first
  // one moved.
  void solve_again() {
    V *const again = b.d;
    for (int i = 0; i < n; ++i) b.rhs[i] = V{};
    V next = V{};
    for (int i = n - 1; i > 0; --i) {
      const int p = s.parent[i];
      const V rhs = (b.capacity[i] * b.per_step * b.dv[i] + b.rhs[i]) + next;
      again[i] = rhs * over[i];
      next = share[i] * rhs;
      if (p != i - 1) {
        b.rhs[p] += next;
        next = V{};
      }
    }
    again[0] = (b.capacity[0] * b.per_step * b.dv[0] + b.rhs[0] + next) * over[0];
    substitute(again, share, s.parent, n);
    const T weight = T(1.0 + __builtin_sqrt(2.0));
    for (int i = 0; i < n; ++i) b.dv[i] = T(0.5) * (b.dv[i] + weight * again[i]);
  }

  // The voltages one step later. Returns how much their slopes changed, at most of all nodes, mV / ms.
  V move() {
    V over_ms, bend = V{};
    for (int l = 0; l < lanes; ++l) over_ms[l] = T(1.0 / (lane[l].step * s.tick_ms));
    const T reach = s.order >= 2 ? T(2) : T(1);
    for (int i = 0; i < n; ++i) {
      const V whole = reach * b.dv[i], slope = whole * over_ms;
      b.v[i] += whole;
      const V changed = M::fabs(slope - b.slope[i]);
      bend = changed > bend ? changed : bend;
      b.slope[i] = slope;
    }
    return bend;
  }

  // Record a lane's voltages since its last step, before which they were `before`. Returns whether it goes on.
  bool keep(int l, const V *before) {
    Lane &at = lane[l];
    const Protocol &to = *at.protocol;
    T *const recorded = static_cast<T *>(to.recorded) + int64_t(at.individual) * s.n_places * to.n_records;
    for (; at.record < to.n_records && to.grid[at.record] <= at.now; ++at.record) {
      const int64_t left = at.now - to.grid[at.record];
      for (int p = 0; p < s.n_places; ++p) {
        const T now = b.v[s.places[p]][l], share = T(left) / T(at.step);
        recorded[p * to.n_records + at.record] = left ? now + (before[p][l] - now) * share : now;
      }
    }
    const double watched = b.v[s.places[0]][l];
    const bool bad = !(watched < RUNAWAY_MV && watched > -RUNAWAY_MV);
    if (!bad && at.now < to.end) return true;
    to.ok[at.individual] = !bad;
    for (int p = 0; p < s.n_places; ++p)
      for (int64_t r = at.record; r < to.n_records; ++r) recorded[p * to.n_records + r] = __builtin_nan("");
    at.protocol = nullptr;
    --active;
    return false;
  }

  // The length of a lane's next step, from how much a slope changed in the last one.
  int64_t next_step(const Lane &at, double changed) const {
    const Protocol &in = *at.protocol;
    if (at.now == in.start || at.now == in.stop) return at.until_change(s.shortest);
    const double curvature = changed / (0.5 * (at.step + at.last_step) * s.tick_ms);
    const double wanted = __builtin_sqrt(s.largest_bend / curvature) / s.tick_ms;
    int64_t longest = at.near(s.near) ? s.longest_near : s.longest_away;
    const int64_t grown = at.step + (at.step + LARGEST_GROWTH - 1) / LARGEST_GROWTH;
    if (grown < longest) longest = grown;
    if (wanted < double(longest)) longest = int64_t(wanted);
    return at.until_change(longest > s.shortest ? longest : s.shortest);
  }

  void run() {
    for (int l = 0; l < lanes; ++l) fill(l);  // one that stays idle calculates something all the same
    begin();
    V *const before = memory.take<V>(s.n_places);
    while (active) {
      for (int p = 0; p < s.n_places; ++p) before[p] = b.v[s.places[p]];
      solve();
      if (s.order == 3) solve_again();
      const V changed = move();
      V dt;
      for (int l = 0; l < lanes; ++l) {
        Lane &at = lane[l];
        int64_t next = at.step;
        if (at.protocol) {
          at.now += at.step;
          if (keep(l, before)) next = next_step(at, changed[l]);
        }
        // At second order states are half a step ahead of the voltage.
        dt[l] = T((s.order >= 2 ? 0.5 * (at.step + next) : double(at.step)) * s.tick_ms);
        at.last_step = at.step;
        at.step = next;
      }
      set_step();
      Membranes::template advance<T>(b, dt, T(s.order >= 2));
      begin();
    }
  }
};

template <class T, class Membranes> static void run_all(const Setup &s) {
#if defined(__SSE__)
  const unsigned kept = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(kept | 0x8040);  // denormals are zero: a channel that closes would slow down
#endif
  Simulation<T, Membranes>(s).run();
#if defined(__SSE__)
  __builtin_ia32_ldmxcsr(kept);
#endif
}
