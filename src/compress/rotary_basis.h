// The latent basis of keys that decode kernels like: a head's fast rotary pairs need the first
// latents only.
//
// Rotating a group's latents by an orthogonal Q (A <- Q^T A, U <- U Q) changes no product U A. With
// Q from the QR factorisation of the rows of U that belong to the fast pairs of all heads in turn,
// those of head h are zero beyond the first (h + 1) 2 `pairs` latents, so that kernels that split
// rotary pairs (ops/frequency_split.h) skip what is zero. Heads are taken two at a time, and a flat
// rotation against outliers stays within the blocks between these bounds: the larger the blocks,
// the better it spreads outliers.
#pragma once

#include "compress/decompose.h"
#include "ops/latent_order.h"

namespace palu {

// Turns the factors of a group, up: [heads * head_dim, rank], and stores latents in the order in
// which kernels meet them; `flat`: rotates inside blocks. Entries beyond RotaryBounds become zero
// exactly. The singular values, which belong to another basis, are left as they are. Throws Error
// unless 1 <= pairs <= head_dim / 2 and rows are those of whole heads.
void TurnToRotaryBasis(const RotaryRows& rows, bool flat, GroupFactors& factors);

}  // namespace palu
