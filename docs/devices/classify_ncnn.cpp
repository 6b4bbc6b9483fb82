// Classify a JPEG with an ncnn file. The last line of the .param file holds the size of the input,
// the order of the channels, mean and std. The values below are those of our configs.
//
//     c++ -std=c++17 -O2 classify_ncnn.cpp -o classify $(pkg-config --cflags --libs opencv4) -lncnn
//     ./classify care.param care.bin photo.jpg 224 224

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include <ncnn/net.h>
#include <opencv2/imgcodecs.hpp>

int main(int argc, char** argv) {
    if (argc != 6) {
        std::fprintf(stderr, "usage: %s NET.param NET.bin PHOTO HEIGHT WIDTH\n", argv[0]);
        return 2;
    }
    const cv::Mat photo = cv::imread(argv[3], cv::IMREAD_COLOR);  // blue first
    if (photo.empty()) {
        std::fprintf(stderr, "%s: not an image\n", argv[3]);
        return 2;
    }

    ncnn::Net net;
    net.opt.num_threads = 2;
    // Attention stays in float32 in any case, see docs/devices.md.
    net.opt.use_fp16_arithmetic = false;
    if (net.load_param(argv[1]) != 0 || net.load_model(argv[2]) != 0) {
        std::fprintf(stderr, "%s: not a network of ncnn\n", argv[1]);
        return 2;
    }

    const int height = std::atoi(argv[4]), width = std::atoi(argv[5]);
    ncnn::Mat image = ncnn::Mat::from_pixels_resize(
        photo.data, ncnn::Mat::PIXEL_BGR2RGB, photo.cols, photo.rows, width, height);
    const float mean[3] = {123.675f, 116.28f, 103.53f};
    const float scale[3] = {1 / 58.395f, 1 / 57.12f, 1 / 57.375f};  // 1 / std
    image.substract_mean_normalize(mean, scale);

    ncnn::Mat logits;
    ncnn::Extractor extractor = net.create_extractor();
    extractor.input("image", image);
    if (extractor.extract("logits", logits) != 0) {
        std::fprintf(stderr, "%s: not a classifier\n", argv[1]);
        return 2;
    }

    const float* values = logits;
    std::vector<float> scores(values, values + logits.w);
    const float largest = *std::max_element(scores.begin(), scores.end());
    for (float& score : scores) score = std::exp(score - largest);
    const float sum = std::accumulate(scores.begin(), scores.end(), 0.0f);
    std::vector<int> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
    for (std::size_t i = 0; i < std::min<std::size_t>(3, order.size()); ++i)
        std::printf("class %d %.4f\n", order[i], scores[order[i]] / sum);
    return 0;
}
