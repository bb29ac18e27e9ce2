// The kernels of each backend. Both offer the same functions on plain pointers; ops.cpp turns tensors into these.
#pragma once

#include <cstdint>
#include <type_traits>

namespace sync_bn {

// N x C x positions with each channel's positions in a row, or with channels_last (N x positions) x C.
struct Layout {
  int64_t batch, channels, positions;
  bool channels_last;

  int64_t rows() const { return batch * positions; }
};

// The type to compute in.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

// z = (x - mean) * invstd * weight + bias, and the activation z or, for z below 0, slope * z. Null means 1 and 0.
template <class A>
struct Transform {
  const double* mean;
  const double* invstd;
  const A* weight;
  const A* bias;
  A slope;
};

// The numbers behind a gradient of x: sums [2, C] over all processes and their count; null for constant statistics.
struct Totals {
  const double* sums;
  const double* count;
};

// The state that a training step updates, if mean is not null: by 1 / *batches if that is not null, else by momentum.
template <class R>
struct Running {
  R* mean;
  R* var;
  double momentum;
  const int64_t* batches;
};

}  // namespace sync_bn

#ifdef SYNC_BN_CUDA
#define SYNC_BN_BACKEND cuda
#else
#define SYNC_BN_BACKEND cpu
#endif

namespace sync_bn::SYNC_BN_BACKEND {

// A CUDA stream; nothing on the CPU.
using Stream = void*;

// The number of parts in which a reduction is made, each with its row of partial results.
int64_t parts(const Layout& layout);

// x -> partial [parts, 2C + 1]: mean, sum of squared deviations from it, count.
template <class T>
void statistics(const T* x, const Layout& layout, double* partial, Stream stream);

// rows [count, 2C + 1] -> one row of the same form, by Chan, Golub and LeVeque's formula.
void merge(const double* rows, int64_t count, int64_t channels, double* row, Stream stream);

// rows -> mean [C], invstd [C], total; and one step of the running statistics.
template <class R>
void finish(const double* rows, int64_t count, int64_t channels, double eps, const Running<R>& running, double* mean,
            double* invstd, double* total, Stream stream);

// y may be x.
template <class T>
void normalise(const T* x, const Layout& layout, const Transform<Compute<T>>& transform, T* y, Stream stream);

// partial [parts, 2, C]: sums of d and of d * normalised x, d the gradient at the activation's input.
template <class T>
void sums(const T* grad, const T* saved, bool from_output, const Layout& layout,
          const Transform<Compute<T>>& transform, double* partial, Stream stream);

template <class T>
void input_gradient(const T* grad, const T* saved, bool from_output, const Layout& layout,
                    const Transform<Compute<T>>& transform, const Totals& totals, T* result, Stream stream);

}  // namespace sync_bn::SYNC_BN_BACKEND

#define SYNC_BN_INSTANTIATE_FOR(T)                                                                                    \
  template void statistics<T>(const T*, const Layout&, double*, Stream);                                              \
  template void normalise<T>(const T*, const Layout&, const Transform<Compute<T>>&, T*, Stream);                      \
  template void sums<T>(const T*, const T*, bool, const Layout&, const Transform<Compute<T>>&, double*, Stream);      \
  template void input_gradient<T>(const T*, const T*, bool, const Layout&, const Transform<Compute<T>>&, const Totals&, \
                                  T*, Stream);

#define SYNC_BN_INSTANTIATE                                                                                           \
  SYNC_BN_INSTANTIATE_FOR(float)                                                                                      \
  SYNC_BN_INSTANTIATE_FOR(double)                                                                                     \
  SYNC_BN_INSTANTIATE_FOR(c10::Half)                                                                                  \
  SYNC_BN_INSTANTIATE_FOR(c10::BFloat16)                                                                              \
  template void finish<float>(const double*, int64_t, int64_t, double, const Running<float>&, double*, double*, double*, \
                              Stream);                                                                                \
  template void finish<double>(const double*, int64_t, int64_t, double, const Running<double>&, double*, double*,     \
                               double*, Stream);
