// A model that several threads of a C++ program use at once: serve [THREADS]
//
//   bessemer compile lenet.onnx -o lenet.o
//   c++ -std=c++17 serve.cpp lenet.o -lm -lpthread -o serve
//
// Each thread has a context of its own, which computes on that thread alone: for many small requests
// that is faster than many threads for each. The weights are in the program once, for all contexts.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "lenet.h"

constexpr int pixels = 28 * 28, classes = 10, requests = 8;

class Model {
 public:
  Model() : context_(created(), lenet_destroy) {}

  // The logits of as many images as the vector has, [batch, 10].
  std::vector<float> run(const std::vector<float> &images) {
    const auto batch = static_cast<int64_t>(images.size()) / pixels;
    std::vector<float> logits(static_cast<std::size_t>(batch) * classes);
    const void *inputs[lenet_INPUT_COUNT] = {images.data()};
    void *outputs[lenet_OUTPUT_COUNT] = {logits.data()};
    int64_t dims[lenet_DIM_COUNT] = {batch};
    if (lenet_run(context_.get(), inputs, outputs, dims, nullptr, 0))
      throw std::runtime_error(lenet_message(context_.get()));
    return logits;
  }

 private:
  static lenet_context *created() {
    lenet_options options{};
    options.threads = 1;
    lenet_context *context = nullptr;
    if (const auto status = lenet_create(&context, &options))
      throw std::runtime_error(lenet_status_text(status));
    return context;
  }

  std::unique_ptr<lenet_context, void (*)(lenet_context *)> context_;
};

// Request number n has n + 1 images: one compilation serves batches of any size.
static std::vector<float> request(int number) {
  std::vector<float> images(static_cast<std::size_t>(number + 1) * pixels);
  for (std::size_t i = 0; i < images.size(); i++) images[i] = static_cast<float>(i * 37 % 256) / 256;
  return images;
}

int main(int count, char **arguments) {
  std::vector<std::vector<float>> answers(requests);
  std::atomic<int> next{0};
  const auto serve = [&] {
    Model model;
    for (int number; (number = next++) < requests;) answers[number] = model.run(request(number));
  };
  std::vector<std::thread> threads(count > 1 ? std::atoi(arguments[1]) : 2);
  for (auto &thread : threads) thread = std::thread(serve);
  for (auto &thread : threads) thread.join();

  for (const auto &logits : answers) {  // those of each request's last image
    for (int k = 0; k < classes; k++) std::printf("%.9g ", logits[logits.size() - classes + k]);
    std::printf("\n");
  }
}
