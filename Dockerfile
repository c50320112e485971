# The service on a CPU: docker build -t keras_cnn .
# docker run -p 8000:8000 -v ./runs:/runs keras_cnn serve /runs/photos --host 0.0.0.0
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[serve,openvino]" && rm -r /src \
    && useradd --create-home user
USER user
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD python -c "from urllib.request import urlopen as get; get('http://127.0.0.1:8000/health', timeout=5)"
ENTRYPOINT ["keras-cnn"]
CMD ["--help"]
