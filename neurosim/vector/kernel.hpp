// One cell, many individuals: arrays are [node][individual], a vector of individuals at a time.
// Units: mV, ms, mA/cm2, S/cm2, uF/cm2; areas in um2 / 100, so that density times area is nA and uS.
#include <cstdlib>
#include <cstring>
#include <initializer_list>

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
  double v_init, tick_ms, largest_bend, runaway;  // mV
  int64_t shortest, shortest_away, longest, longest_away, near;  // steps; how long after the stimulus is near it
  const Protocol *protocols;
};

static constexpr int64_t GROWTH = 2;  // the next step may be longer by half

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
      keep(l, nullptr);
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
    const bool bad = !(watched < s.runaway && watched > -s.runaway);
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
    const double wanted = __builtin_cbrt(s.largest_bend / curvature) / s.tick_ms;
    const bool near = at.near(s.near);
    const int64_t shortest = near ? s.shortest : s.shortest_away;
    int64_t longest = near ? s.longest : s.longest_away;
    const int64_t grown = at.step + (at.step + GROWTH - 1) / GROWTH;
    if (grown < longest) longest = grown;
    if (wanted < double(longest)) longest = int64_t(wanted);
    return at.until_change(longest > shortest ? longest : shortest);
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
