"""Limits on input from outside. `docs/limits.md` lists them; the server's are defaults of `ServeSettings`."""

MIB = 1 << 20

# Images and masks
MAX_PIXELS = 3 << 24  # pixels of an image or mask, 50 million: four runs of 2^24 make pycocotools write past its text
MAX_SCANS = 100  # scans of a JPEG, as in libtiff; encoders write about 10
MAX_SCANNED_PIXELS = 1_000_000_000  # pixels × scans of a JPEG: about 2 s
MAX_COORDINATE = 1_000_000  # pixels between a polygon's point and the image's corner
MAX_POLYGON_POINTS = 1_000_000  # points of all polygons of a mask
MAX_OUTLINE = 2_000_000  # pixels in x and in y along all polygons of a mask: pycocotools takes up to 160 bytes for each

# Model directories
MAX_LAYERS = 1024  # layers, attention heads, experts, scales or tokens of one kind: building takes time for each
MAX_WIDTH = 1 << 17  # channels of a layer
MAX_PROJECTOR_RATIO = 64  # hidden width of a projector as a multiple of the language model's
MAX_VOCABULARY = 1 << 22  # tokens of a language model
MAX_IMAGE_SIDE = 8192  # pixels of the square that a vision encoder reads

# Requests to the server
MAX_BODY_BYTES = 16 * MIB  # bytes of a request
MAX_UPLOAD_PIXELS = 25_000_000  # pixels of an image in a request
MAX_DECODED_BYTES = 512 * MIB  # bytes of all decoded images in use
MAX_DECODERS = 4  # images decoded at once, each in a process of its own; half of them for one API key
DECODE_SECONDS = 20.0  # seconds to decode an image; then its process is killed
DECODER_BYTES = 64 * MIB  # memory of a decoder process beyond that of its start, and of
DECODER_BYTES_PER_PIXEL = 40  # bytes for each of `MAX_UPLOAD_PIXELS`: coefficients and two copies with four channels
MAX_QUEUE = 256  # questions that wait for the model
MAX_IN_FLIGHT = 256  # requests of one API key being read, answered or written
MAX_HEADERS = 100  # headers of a request
MAX_HEADER_BYTES = 32 << 10  # bytes of all headers of a request
MAX_CONNECTIONS = 2000  # open connections: each is a file descriptor
MAX_FORM_FIELDS = 16  # fields of a form
MAX_JSON_STRINGS = 100_000  # strings in the JSON of a request
MAX_JSON_BYTES = 256 << 10  # bytes of that JSON besides its strings: what takes memory and time to parse
MAX_PARTS = 64  # parts (text, image) of a message
MAX_MARKS = 256  # points of a refinement, strokes of it, and points of a stroke
HEADER_SECONDS = 10.0  # seconds from the first byte of a request to its last header
BODY_SECONDS = 30.0  # seconds to its last byte
REQUEST_SECONDS = 120.0  # seconds to the end of the answer
WRITE_SECONDS = 30.0  # seconds for the client to read the next WRITE_BYTES of a response
WRITE_BYTES = 64 << 10  # bytes of a response that are written at once
FETCH_SECONDS = 10.0  # seconds to fetch an image by its URL
MAX_FETCHES = 16  # images fetched at once; half of them for one API key
MAX_CORRECTIONS_BYTES = 4096 * MIB  # bytes of the folder of corrections, of all API keys together
MAX_REDIRECTS = 3  # redirects of an image's URL

# Text
MAX_MESSAGES = 128  # messages of a conversation
MAX_TURNS = 16  # user messages of a conversation
MAX_QUESTION_CHARS = 2000  # characters of a question, or of a system message
MAX_ANSWER_CHARS = 8000  # characters of an earlier answer: 16 for each of MAX_NEW_TOKENS
MAX_CHAT_CHARS = 40_000  # characters of all texts of a conversation
MAX_PAST_TARGETS = 256  # targets of an earlier answer
MAX_PROMPT_TOKENS = 1024  # tokens of a prompt: image, system text, earlier turns and question
MAX_NEW_TOKENS = 512  # tokens of an answer
