# Capture and analysis on processors:
#   docker build -f docker/cpu.Dockerfile -t lpp-engine .
#   docker run -v "$PWD:/work" lpp-engine lpp-capture run --model ... --store ./lpp
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir '/src[torch,report]' --extra-index-url https://download.pytorch.org/whl/cpu \
 && rm -rf /src && useradd --create-home lpp && install --directory --owner=lpp /work
USER lpp
WORKDIR /work
CMD ["lpp-analyze", "--help"]
