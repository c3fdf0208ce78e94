// Masks: COCO's compressed run lengths → pixels → an outline. Pixels are in columns, as COCO has them: x · height + y.

// {width, height, bits}: one byte a pixel.
export function decode({ size: [height, width], counts }) {
  const bits = new Uint8Array(width * height);
  let at = 0;
  runs(counts).forEach((run, i) => {
    if (i % 2) bits.fill(1, at, at + run);
    at += run;
  });
  return { width, height, bits };
}

// Groups of 5 bits, low first; 32: more follow, 16: sign; from the fourth run on differences to the one before the last.
function runs(counts) {
  const found = [];
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
    found.push(found.length > 2 ? run + found[found.length - 2] : run);
  }
  return found;
}

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up

// Its edge as an SVG path, to fill by the even-odd rule: through the middles of the pixels' sides, corners cut.
export function outline(mask) {
  const sides = edges(mask);
  const rows = mask.height + 1;
  let path = "";
  for (let start = 0; start < sides.length; start++) {
    for (let bit = 0; bit < 4; bit++) if (sides[start] & (1 << bit)) path += ring(sides, rows, start, bit);
  }
  return path;
}

// For each corner of pixels, the directions in which a side leaves it that has the mask on its right: one bit each.
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

// Walks round once, and takes the sides away that it has passed.
function ring(sides, rows, start, direction) {
  const points = [];
  let corner = start;
  for (let before = -1; direction >= 0; ) {
    sides[corner] &= ~(1 << direction);
    const [dx, dy] = STEPS[direction];
    const middle = [Math.floor(corner / rows) + dx / 2, (corner % rows) + dy / 2];
    if (direction === before && points.length > 1 && points.at(-1).straight) points.pop(); // on a line
    points.push(Object.assign(middle, { straight: direction === before }));
    before = direction;
    corner += dx * rows + dy;
    // A right turn first: pixels that only touch at a corner stay apart.
    direction = [1, 0, 3].map((turn) => (before + turn) % 4).find((next) => sides[corner] & (1 << next)) ?? -1;
  }
  return `M${points.map((point) => point.join(" ")).join("L")}Z`;
}
