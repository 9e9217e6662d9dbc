// The kernels against double precision over odd shapes, through the C interface, without Python: for sanitizers and
// emulators. kernels_test [few] [callers] [INSTRUCTION SET…]; by default each set that the processor has.
// callers: several threads at once, of which each tests all.
#include <string.h>

#include <string>
#include <thread>

#include "../mlx_mm_native.h"
#include "tests.h"

namespace {

constexpr int kCallers = 3;
bool few = false, callers = false;

void test_all(uint64_t seed) {
  Random random(seed);
  for (bool start : {false, true}) {
    at_start = start;
    test_rows(few, random);
    test_attentions(few, random);
    test_products(few, random);
    test_grids(few, random);
  }
}

void test_set(const std::string& name) {
  begin("%s", name.c_str());
  if (!expect(mm_choose(name.c_str()) == MM_OK, "this processor lacks the instruction set")) return;
  const int before = cases;
  for (int count : {1, 3}) {
    if (callers && count == 1) continue;
    mm_set_threads(count);
    std::vector<std::thread> others;
    for (int caller = 1; callers && caller < kCallers; caller++) others.emplace_back(test_all, 100 + caller);
    test_all(count);
    for (std::thread& other : others) other.join();
  }
  printf("%s: %d cases, %d failures so far\n", name.c_str(), cases - before, failures.load());
}

}  // namespace

int main(int count, char** arguments) {
  name_faults();
  std::vector<std::string> sets;
  for (int i = 1; i < count; i++)
    if (!strcmp(arguments[i], "few")) few = true;
    else if (!strcmp(arguments[i], "callers")) callers = true;
    else sets.push_back(arguments[i]);
  const std::string all = std::string(mm_instruction_sets()) + " ";
  if (sets.empty())
    for (size_t start = 0, end; (end = all.find(' ', start)) != std::string::npos; start = end + 1)
      sets.push_back(all.substr(start, end - start));
  for (const std::string& set : sets) test_set(set);
  return failures != 0 || sets.empty();
}
