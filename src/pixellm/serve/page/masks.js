// Masks: compressed COCO RLE → pixels → outline. Pixels are column-major, as in COCO: x · height + y.

// Returns {width, height, bits}, one byte per pixel.
export function decode({ size: [height, width], counts }) {
  const bits = new Uint8Array(width * height);
  let at = 0;
  runs(counts).forEach((run, i) => {
    if (i % 2) bits.fill(1, at, at + run);
    at += run;
  });
  return { width, height, bits };
}

// What the page draws and says of a target's mask: its outline, and its share of the image.
export function shapeOf({ segmentation, area }) {
  const mask = decode(segmentation);
  return { path: outline(mask), share: area / (mask.width * mask.height) };
}

// Groups of 5 bits, lowest first; 32: more follow, 16: sign. From the fourth run on, differences to the run before the last.
function runs(counts) {
  const lengths = [];
  for (let at = 0; at < counts.length; ) {
    let run = 0;
    let shift = 0;
    let group;
    do {
      group = counts.charCodeAt(at++) - 48;
      run |= (group & 31) << shift;
      shift += 5;
    } while (group & 32);
    if (group & 16) run |= -1 << shift;
    lengths.push(lengths.length > 2 ? run + lengths[lengths.length - 2] : run);
  }
  return lengths;
}

// Run lengths as text, which `runs` reads.
export function encode(lengths) {
  let text = "";
  lengths.forEach((length, i) => {
    let rest = i > 2 ? length - lengths[i - 2] : length;
    for (let more = true; more; ) {
      const group = rest & 31;
      rest >>= 5;
      more = rest !== (group & 16 ? -1 : 0);
      text += String.fromCharCode(48 + group + (more ? 32 : 0));
    }
  });
  return text;
}

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up

// The outline as an SVG path for the even-odd rule: through the midpoints of pixel edges, with corners cut.
export function outline(mask) {
  const sides = edges(mask);
  const rows = mask.height + 1;
  let path = "";
  for (let start = 0; start < sides.length; start++) {
    for (let bit = 0; bit < 4; bit++) if (sides[start] & (1 << bit)) path += ring(sides, rows, start, bit);
  }
  return path;
}

// For each pixel corner, one bit per direction in which an edge with the mask on its right leaves it.
function edges({ width, height, bits }) {
  const rows = height + 1;
  const sides = new Uint8Array((width + 1) * rows);
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[x * height + y];
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if (!bits[x * height + y]) continue;
      const corner = x * rows + y;
      if (!inside(x, y - 1)) sides[corner] |= 1;
      if (!inside(x + 1, y)) sides[corner + rows] |= 2;
      if (!inside(x, y + 1)) sides[corner + rows + 1] |= 4;
      if (!inside(x - 1, y)) sides[corner + 1] |= 8;
    }
  }
  return sides;
}

// Follow one ring, removing the edges on the way.
function ring(sides, rows, start, direction) {
  const points = [];
  let corner = start;
  for (let before = -1; direction >= 0; ) {
    sides[corner] &= ~(1 << direction);
    const [dx, dy] = STEPS[direction];
    const middle = [Math.floor(corner / rows) + dx / 2, (corner % rows) + dy / 2];
    if (direction === before && points.length > 1 && points.at(-1).straight) points.pop(); // collinear
    points.push(Object.assign(middle, { straight: direction === before }));
    before = direction;
    corner += dx * rows + dy;
    // Turn right first, so that pixels that only share a corner stay separate.
    direction = [1, 0, 3].map((turn) => (before + turn) % 4).find((next) => sides[corner] & (1 << next)) ?? -1;
  }
  return `M${points.map((point) => point.join(" ")).join("L")}Z`;
}
