// Factors weighted on both sides: by what goes into a projection and by what its output is worth to
// the loss.
//
// The loss grows, to second order and with errors e_t of different tokens uncorrelated, by
//   1/2 sum_t e_t^T G e_t,  G = E[g g^T],  g = d(loss of the window) / d(output at t)
// (the empirical Fisher matrix, whose factored form with C = E[(x - m)(x - m)^T] is that of K-FAC,
// Martens and Grosse, 2015). With G = R R^T, C = L L^T and R^T W L = P S Q^T,
//   U = R^-T P,  A = S Q^T L^-1
// give latents A (x - m) that are uncorrelated with variances S_i^2, each in units of twice the
// loss per token: what quantisation or truncation does to latent i costs its squared error / 2.
#pragma once

#include <vector>

#include "compress/decompose.h"
#include "tensor/tensor.h"

namespace palu {

struct TwoSidedFactors {
  Matrix<double> up;           // U [rows, k], k = min(rows, hidden)
  Matrix<double> down;         // A [k, hidden]
  std::vector<double> energy;  // S_i^2, descending, [k]
};

// From the decomposition of R^T W with the inputs whitened by L: {P, S, Q^T L^-1}. output: R.
TwoSidedFactors TwoSidedFrom(GroupSvd svd, MatrixView<const double> output);

// R^T W, which is decomposed. Shapes as below.
Matrix<double> WeighOutputs(MatrixView<const double> weight, MatrixView<const double> output);

// weight: W [rows, hidden]. input: L [hidden, hidden], output: R [rows, rows], lower triangular, as
// WhiteningFactor makes them. Throws Error when shapes disagree or a value is not finite.
TwoSidedFactors DecomposeTwoSided(MatrixView<const double> weight, MatrixView<const double> input,
                                  MatrixView<const double> output);

}  // namespace palu
