// Tokens in, sound out: an exported model with ONNX Runtime's C++ API, without Python.
//
//   soundcrafter EXPORT TOKENS OUT.wav [SEED [SECONDS]]
//
// TOKENS are the numbers of the prompt, as 1,337,12,3; docs/engines.md says where they come from.
// The sound is that of `soundcrafter generate --candidates 1 --sampler dpmpp` with this seed, of at
// most ten seconds; src/soundcrafter/onnx makes longer ones in pieces.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Tensor {
  std::vector<float> values;
  std::vector<int64_t> shape;
};

template <class T>
Ort::Value wrap(std::vector<T>& values, const std::vector<int64_t>& shape) {
  static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  return Ort::Value::CreateTensor<T>(memory, values.data(), values.size(), shape.data(),
                                     shape.size());
}

std::vector<double> numbers(const std::string& list) {
  std::vector<double> found;
  std::istringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) found.push_back(std::stod(item));
  return found;
}

// The random numbers of torch's CPU generator: the same seed is the same sound.
struct TorchGenerator {
  std::mt19937 twister;
  explicit TorchGenerator(uint64_t seed) : twister(static_cast<uint32_t>(seed)) {}

  std::vector<float> uniform(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(twister() & 0xFFFFFF) / 16777216.0f;
    return values;
  }
  std::vector<float> normal(size_t count) {  // by Box and Muller, for 16 values or more
    std::vector<float> values = uniform(count);
    for (size_t i = 0; i + 16 <= count; i += 16) make_normal(&values[i]);
    if (count % 16 == 0) return values;
    std::vector<float> last = uniform(16);  // the last block overlaps the one before it
    std::copy(last.begin(), last.end(), values.end() - 16);
    make_normal(&values[count - 16]);
    return values;
  }
  static void make_normal(float* block) {
    for (int i = 0; i < 8; ++i) {
      const double radius = std::sqrt(-2 * std::log(1.0 - block[i]));
      const double angle = 2 * std::acos(-1.0) * block[i + 8];
      block[i] = static_cast<float>(radius * std::cos(angle));
      block[i + 8] = static_cast<float>(radius * std::sin(angle));
    }
  }
};

// An exported folder. settings.json has each section two spaces deep, and needs no parser here.
struct Export {
  std::filesystem::path folder;
  std::string settings;
  Ort::Env environment{ORT_LOGGING_LEVEL_ERROR, "soundcrafter"};
  Ort::SessionOptions options;
  std::map<std::string, Ort::Session> sessions;

  explicit Export(const char* path) : folder(path) {
    // threads that spin while they wait slow down everything else on the machine
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    std::ifstream file(folder / "settings.json");
    if (!file) throw std::runtime_error(folder.string() + ": not an exported model");
    settings.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::string text(const std::string& section, const std::string& key) const {
    size_t at = settings.find("\n  \"" + section + "\":");
    if (at != std::string::npos) at = settings.find("\"" + key + "\": ", at);
    if (at == std::string::npos) throw std::runtime_error("settings.json has no " + key);
    return settings.substr(at + key.size() + 4);
  }
  double number(const std::string& section, const std::string& key) const {
    return std::stod(text(section, key));
  }
  template <class... Values>
  Tensor run(const std::string& part, const std::vector<const char*>& names, Values... values) {
    const auto file = folder / (part + ".onnx");
    auto& session =
        sessions.try_emplace(part, environment, file.c_str(), options).first->second;
    const Ort::Value inputs[] = {std::move(values)...};
    const Ort::AllocatorWithDefaultOptions allocator;
    const auto name = session.GetOutputNameAllocated(0, allocator);
    const char* output = name.get();
    const std::vector<Ort::Value> found =
        session.Run({}, names.data(), inputs, names.size(), &output, 1);
    const auto info = found[0].GetTensorTypeAndShapeInfo();
    const float* data = found[0].GetTensorData<float>();
    return {{data, data + info.GetElementCount()}, info.GetShape()};
  }
};

// alpha_bar, the share of signal in the power at each training step.
std::vector<double> schedule(const Export& model) {
  const bool is_linear = model.text("diffusion", "betas").rfind("\"linear\"", 0) == 0;
  double low = model.number("diffusion", "beta_start");
  double high = model.number("diffusion", "beta_end");
  if (!is_linear) low = std::sqrt(low), high = std::sqrt(high);
  std::vector<double> alpha_bar(static_cast<size_t>(model.number("diffusion", "steps")));
  double product = 1;
  for (size_t i = 0; i < alpha_bar.size(); ++i) {
    const double beta = low + (high - low) * i / (alpha_bar.size() - 1);
    alpha_bar[i] = product *= 1 - (is_linear ? beta : beta * beta);
  }
  return alpha_bar;
}

// DPM-Solver++(2M) with classifier-free guidance: the text and "nothing" share a batch.
void denoise(Export& model, Tensor& x, const std::vector<float>& text) {
  const std::string objective = model.text("diffusion", "objective");
  const bool is_v = objective.rfind("\"v\"", 0) == 0;
  if (!is_v && objective.rfind("\"epsilon\"", 0)) throw std::runtime_error("objective: not known");
  const std::string list = model.text("latent", "null_cond");
  const auto nothing = numbers(list.substr(1, list.find(']') - 1));
  std::vector<float> cond(text), before;
  cond.insert(cond.end(), nothing.begin(), nothing.end());
  const double guidance = model.number("sampling", "guidance");
  const int steps = static_cast<int>(model.number("sampling", "steps"));
  const auto alpha_bar = schedule(model);
  const double all = static_cast<double>(alpha_bar.size());
  const auto time = [&](int step) { return std::nearbyint(all - step * (all / steps)) - 1; };
  double previous_h = 0;
  for (int step = 0; step < steps; ++step) {
    const size_t count = x.values.size();
    std::vector<float> twice(x.values), times(2, static_cast<float>(time(step)));
    twice.insert(twice.end(), x.values.begin(), x.values.end());
    const auto found =
        model.run("unet", {"latent", "t", "cond"},
                  wrap(twice, {2, x.shape[1], x.shape[2], x.shape[3]}), wrap(times, {2}),
                  wrap(cond, {2, static_cast<int64_t>(text.size())}));
    const bool is_last = step + 1 == steps;
    const double here = alpha_bar[static_cast<size_t>(time(step))];
    const double there = is_last ? 1 : alpha_bar[static_cast<size_t>(time(step + 1))];
    const double alpha = std::sqrt(here), sigma = std::sqrt(1 - here);
    const double next_alpha = std::sqrt(there), next_sigma = std::sqrt(1 - there);
    const double h = is_last ? 0 : std::log(next_alpha / next_sigma * sigma / alpha);
    std::vector<float> clean(count);
    for (size_t i = 0; i < count; ++i) {
      const double without = found.values[count + i];
      const double predicted = without + guidance * (found.values[i] - without);
      const double x0 = is_v ? alpha * x.values[i] - sigma * predicted
                             : (x.values[i] - sigma * predicted) / alpha;
      clean[i] = static_cast<float>(x0);
      double target = x0;
      if (step > 0 && !is_last) target += h / (2 * previous_h) * (x0 - before[i]);
      x.values[i] = is_last ? clean[i]
                            : static_cast<float>(next_sigma / sigma * x.values[i] -
                                                 next_alpha * std::expm1(-h) * target);
    }
    before = clean;
    previous_h = h;
  }
}

std::vector<float> generate(Export& model, std::vector<int64_t> tokens, uint64_t seed,
                            double seconds) {
  const double rate = model.number("vocoder", "sample_rate");
  if (seconds == 0) seconds = model.number("sampling", "seconds");
  if (!(seconds > 0 && seconds <= 10)) throw std::runtime_error("seconds: allowed: up to 10");
  const size_t samples = static_cast<size_t>(std::nearbyint(seconds * rate));
  std::vector<int64_t> mask(tokens.size(), 1), row{1, static_cast<int64_t>(tokens.size())};
  const auto text = model.run("clap_text", {"tokens", "mask"}, wrap(tokens, row), wrap(mask, row));

  const double mel_frames = std::ceil(samples / model.number("vocoder", "hop"));
  const double multiple = model.number("latent", "multiple");
  const double frames =
      std::ceil(mel_frames / model.number("latent", "mel_frames") / multiple) * multiple;
  Tensor latent;
  for (double size :
       {1.0, model.number("latent", "channels"), frames, model.number("latent", "rows")})
    latent.shape.push_back(static_cast<int64_t>(size));
  latent.values = TorchGenerator(seed).normal(
      static_cast<size_t>(latent.shape[1] * latent.shape[2] * latent.shape[3]));
  denoise(model, latent, text.values);

  auto mel = model.run("vae_decoder", {"latent"}, wrap(latent.values, latent.shape));
  const int64_t bins = static_cast<int64_t>(model.number("vocoder", "phase_bins"));
  auto phases = TorchGenerator(0).uniform(static_cast<size_t>((mel.shape[2] + 2) * bins));
  Tensor wave = bins ? model.run("vocoder", {"mel", "phases"}, wrap(mel.values, mel.shape),
                                 wrap(phases, {1, mel.shape[2] + 2, bins}))
                     : model.run("vocoder", {"mel"}, wrap(mel.values, mel.shape));
  wave.values.resize(samples);
  return wave.values;
}

// 16 bit, one channel; a peak above 0.99 is scaled down to it. For little-endian machines.
void write_wav(const char* path, const std::vector<float>& wave, uint32_t rate) {
  float peak = 0.99f;
  for (float value : wave) peak = std::max(peak, std::abs(value));
  std::vector<int16_t> samples;
  for (float value : wave)
    samples.push_back(static_cast<int16_t>(std::lrint(value * (0.99f / peak) * 32767)));
  const uint32_t size = static_cast<uint32_t>(samples.size() * 2), riff = size + 36, chunk = 16;
  const uint32_t bytes_per_second = rate * 2;
  const uint16_t format[] = {1, 1}, block[] = {2, 16};
  std::ofstream file(path, std::ios::binary);
  const auto put = [&](const void* data, size_t count) {
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(count));
  };
  put("RIFF", 4), put(&riff, 4), put("WAVEfmt ", 8), put(&chunk, 4), put(format, 4);
  put(&rate, 4), put(&bytes_per_second, 4), put(block, 4), put("data", 4), put(&size, 4);
  put(samples.data(), size);
  if (!file.flush()) throw std::runtime_error(std::string(path) + ": cannot write");
}

int main(int count, char** given) try {
  if (count < 4) throw std::runtime_error("usage: EXPORT TOKENS OUT.wav [SEED [SECONDS]]");
  Export model(given[1]);
  const auto tokens = numbers(given[2]);
  const uint64_t seed = count > 4 ? std::stoull(given[4]) : 0;
  const double seconds = count > 5 ? std::stod(given[5]) : 0;
  const auto wave = generate(model, {tokens.begin(), tokens.end()}, seed, seconds);
  write_wav(given[3], wave, static_cast<uint32_t>(model.number("vocoder", "sample_rate")));
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 2;
}
