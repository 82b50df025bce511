# Capture on NVIDIA cards, in torch and inside vLLM:
#   docker build -f docker/cuda.Dockerfile -t lpp-engine:cuda .
#   docker run --gpus all -v "$PWD:/work" lpp-engine:cuda lpp-capture run --model ... --device cuda
# The image of vLLM brings torch and vLLM, which must stay as they are there.
ARG VLLM=v0.32.0
FROM vllm/vllm-openai:${VLLM}
COPY . /src
RUN python3 -m pip freeze | grep -E '^(torch|vllm|transformers)==' > /tmp/kept \
 && python3 -m pip install --no-cache-dir --constraint /tmp/kept '/src[torch,report]' && rm -rf /src
WORKDIR /work
ENTRYPOINT []
CMD ["lpp-capture", "--help"]
