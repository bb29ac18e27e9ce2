// What both backends compute for one channel and one value of it.
#pragma once

#include <cmath>

#include "kernels.h"

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ inline
#else
#define HOST_DEVICE inline
#endif

namespace sync_bn {

// What the loops over values need to know of a channel.
//
// z = (x - centre) * scale + shift: the centre is the mean in x's precision, so that x - centre is exact for x near it,
// however large it is; the shift makes up for the rest of the mean. unscale is 1 / scale, or 0 where that is infinite.
//
// The gradient of x is scale * d + per_deviation * (x - centre) + constant, which is
// scale * (d - mean of d - normalised x * mean of d * normalised x) with its terms collected.
template <class A>
struct Coefficients {
  A centre, scale, shift, unscale, per_deviation, constant;

  Coefficients() = default;

  HOST_DEVICE Coefficients(const Transform<A>& transform, const Totals& totals, int64_t channels, int64_t c) {
    const double weight = transform.weight ? transform.weight[c] : 1.0;
    const double bias = transform.bias ? transform.bias[c] : 0.0;
    const double mean = transform.mean[c], invstd = transform.invstd[c];
    centre = static_cast<A>(mean);
    scale = static_cast<A>(invstd * weight);
    shift = static_cast<A>(bias - (mean - centre) * invstd * weight);
    unscale = weight == 0 ? A(0) : static_cast<A>(1 / (invstd * weight));
    per_deviation = constant = 0;
    if (totals.sums && *totals.count > 0) {
      const double mean_d = totals.sums[c] / *totals.count, mean_product = totals.sums[channels + c] / *totals.count;
      const double steepness = -invstd * weight * invstd * mean_product;
      per_deviation = static_cast<A>(steepness);
      constant = static_cast<A>(-invstd * weight * mean_d - steepness * (mean - centre));
    }
  }
};

// The sum of d * normalised x, from the sums of d and of d * (x - centre).
template <class A>
HOST_DEVICE double normalised_sum(const Transform<A>& transform, int64_t c, double sum, double product) {
  const double rest = transform.mean[c] - static_cast<A>(transform.mean[c]);
  return transform.invstd[c] * (product - rest * sum);
}

// NaN stays NaN, and ReLU takes minus infinity to 0.
template <class A>
HOST_DEVICE A activate(A z, A slope) {
  return z > 0 ? z : (slope == 0 && z < 0) ? A(0) : slope * z;
}

// A value as backward sees it: x - centre, and d, the gradient at the activation's input.
template <class A>
struct Point {
  A deviation, d;
};

template <bool FromOutput, class A>
HOST_DEVICE Point<A> recall(A grad, A saved, A centre, A scale, A shift, A unscale, A slope, A unslope) {
  if constexpr (FromOutput) {
    const A z = saved > 0 ? saved : saved * unslope;
    return {(z - shift) * unscale, saved > 0 ? grad : slope * grad};
  } else {
    const A deviation = saved - centre;
    return {deviation, deviation * scale + shift > 0 ? grad : slope * grad};
  }
}

// Mean, sum of squared deviations and count of some values.
struct Moments {
  double mean, square, count;

  // Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
  HOST_DEVICE void merge(const Moments& other) {
    if (other.count == 0) return;
    const double share = other.count / (count + other.count), delta = other.mean - mean;
    mean += delta * share;
    square += other.square + delta * delta * count * share;
    count += other.count;
  }

  // Of no values at all: that of the variance 0.
  HOST_DEVICE double invstd(double eps) const { return 1 / sqrt(square / (count > 0 ? count : 1) + eps); }
};

HOST_DEVICE Moments moments_of(const double* row, int64_t channels, int64_t c) {
  return {row[c], row[channels + c], row[2 * channels]};
}

template <class R>
HOST_DEVICE void update(const Running<R>& running, const Moments& moments, int64_t c) {
  if (!running.mean || moments.count == 0) return;
  const double share = running.batches ? 1.0 / static_cast<double>(*running.batches) : running.momentum;
  const double var = moments.square / (moments.count > 1 ? moments.count - 1 : 1.0);
  running.mean[c] = static_cast<R>(running.mean[c] + share * (moments.mean - running.mean[c]));
  running.var[c] = static_cast<R>(running.var[c] + share * (var - running.var[c]));
}

}  // namespace sync_bn
