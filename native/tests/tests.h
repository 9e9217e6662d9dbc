// The groups of tests. few: for emulators and sanitizers, which are slow.
#pragma once
#include <vector>

#include "testing.h"

using Sizes = std::vector<int64_t>;

void test_products(bool few, Random& random);
void test_attentions(bool few, Random& random);
void test_rows(bool few, Random& random);
void test_grids(bool few, Random& random);
