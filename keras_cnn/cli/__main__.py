"""`python -m keras_cnn.cli`."""

from keras_cnn.cli import main

if __name__ == "__main__":
    main()
