// qrMatrix returns the modules of a QR code (ISO/IEC 18004) for text, as rows of 0 and 1 without the quiet zone, or null if the text is
// too long. It is as small as it can be: bytes, error correction level L for a clean screen, mask 0, up to version 25.
export function qrMatrix(text) {
  const most = 25;
  // Of level L, by version from 1: error correction codewords of each block, and blocks.
  const checks = [7, 10, 15, 20, 26, 18, 20, 24, 30, 18, 20, 24, 26, 30, 22, 24, 28, 30, 28, 28, 28, 28, 30, 30, 26];
  const blocks = [1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 6, 6, 6, 6, 7, 8, 8, 9, 9, 10, 12];

  const bytes = new TextEncoder().encode(text);
  // room is how many codewords a version has in all.
  const room = (v) => {
    const along = v < 2 ? 0 : Math.floor(v / 7) + 2; // alignment patterns along a side
    const patterns = v < 2 ? 0 : 25 * along * along - 10 * along - 55;
    return Math.floor((16 * v * v + 128 * v + 64 - patterns - (v < 7 ? 0 : 36)) / 8);
  };
  const dataRoom = (v) => room(v) - checks[v - 1] * blocks[v - 1];
  const headBits = (v) => 4 + (v < 10 ? 8 : 16);
  let version = 1;
  while (version <= most && headBits(version) + 8 * bytes.length > 8 * dataRoom(version)) {
    version++;
  }
  if (version > most) {
    return null;
  }

  // The data: mode, length, bytes, an end, padding.
  const bits = [];
  const put = (value, n) => {
    for (let i = n - 1; i >= 0; i--) {
      bits.push((value >> i) & 1);
    }
  };
  put(4, 4);
  put(bytes.length, headBits(version) - 4);
  bytes.forEach((b) => put(b, 8));
  put(0, Math.min(4, 8 * dataRoom(version) - bits.length));
  put(0, (8 - (bits.length % 8)) % 8);
  for (let pad = 0xec; bits.length < 8 * dataRoom(version); pad ^= 0xec ^ 0x11) {
    put(pad, 8);
  }
  const data = [];
  for (let i = 0; i < bits.length; i += 8) {
    data.push(parseInt(bits.slice(i, i + 8).join(""), 2));
  }

  // Reed-Solomon over GF(256) with x^8+x^4+x^3+x^2+1.
  const times = (a, b) => {
    let product = 0;
    for (; b; b >>= 1) {
      if (b & 1) {
        product ^= a;
      }
      a = (a << 1) ^ (a & 0x80 ? 0x11d : 0);
    }
    return product;
  };
  const degree = checks[version - 1];
  // The generator is the product of (x - 2^i); its leading coefficient is left out.
  let generator = [1];
  for (let i = 0, root = 1; i < degree; i++, root = times(root, 2)) {
    const next = [...generator, 0];
    generator.forEach((g, j) => { next[j + 1] ^= times(g, root); });
    generator = next;
  }
  const remainder = (block) => {
    const rest = new Array(degree).fill(0);
    for (const b of block) {
      const factor = b ^ rest.shift();
      rest.push(0);
      rest.forEach((_, j) => { rest[j] ^= times(generator[j + 1], factor); });
    }
    return rest;
  };
  const n = blocks[version - 1];
  const short = Math.floor(data.length / n); // the last blocks have one codeword more
  const parts = [];
  for (let i = 0, at = 0; i < n; i++) {
    const length = short + (i >= n - (data.length % n) ? 1 : 0);
    parts.push(data.slice(at, at + length));
    at += length;
  }
  const stream = [];
  for (let i = 0; i <= short; i++) {
    parts.forEach((p) => { if (i < p.length) { stream.push(p[i]); } });
  }
  const rests = parts.map(remainder);
  for (let i = 0; i < degree; i++) {
    rests.forEach((r) => stream.push(r[i]));
  }

  // The modules. What is fixed is marked, so that no data goes there.
  const size = 17 + 4 * version;
  const rows = Array.from({ length: size }, () => new Array(size).fill(0));
  const fixed = Array.from({ length: size }, () => new Array(size).fill(false));
  const set = (x, y, dark) => {
    if (x >= 0 && y >= 0 && x < size && y < size) {
      rows[y][x] = dark ? 1 : 0;
      fixed[y][x] = true;
    }
  };
  for (let i = 0; i < size; i++) { // timing
    set(6, i, i % 2 === 0);
    set(i, 6, i % 2 === 0);
  }
  const square = (cx, cy, radius, light) => {
    for (let dy = -radius; dy <= radius; dy++) {
      for (let dx = -radius; dx <= radius; dx++) {
        set(cx + dx, cy + dy, !light.includes(Math.max(Math.abs(dx), Math.abs(dy))));
      }
    }
  };
  [[3, 3], [size - 4, 3], [3, size - 4]].forEach(([x, y]) => square(x, y, 4, [2, 4])); // finders, with their light frame
  if (version > 1) {
    const along = Math.floor(version / 7) + 2;
    const step = 2 * Math.ceil((4 * version + 4) / (2 * along - 2));
    const places = [6];
    for (let at = size - 7; places.length < along; at -= step) {
      places.splice(1, 0, at);
    }
    for (const x of places) {
      for (const y of places) {
        if (!(x === 6 && (y === 6 || y === size - 7)) && !(x === size - 7 && y === 6)) {
          square(x, y, 2, [1]);
        }
      }
    }
  }
  // withCheck appends the BCH remainder of a value.
  const withCheck = (value, n, polynomial) => {
    let rest = value;
    for (let i = 0; i < n; i++) {
      rest = (rest << 1) ^ ((rest >> (n - 1)) & 1 ? polynomial : 0);
    }
    return (value << n) | rest;
  };
  const format = withCheck(0b01000, 10, 0x537) ^ 0x5412; // level L, mask 0
  for (let i = 0; i < 15; i++) {
    const dark = (format >> i) & 1;
    set(8, i < 6 ? i : i < 8 ? i + 1 : size - 15 + i, dark);
    set(i < 8 ? size - 1 - i : i < 9 ? 7 : 14 - i, 8, dark);
  }
  set(8, size - 8, true);
  if (version >= 7) {
    const info = withCheck(version, 12, 0x1f25);
    for (let i = 0; i < 18; i++) {
      const a = size - 11 + (i % 3), b = Math.floor(i / 3);
      set(a, b, (info >> i) & 1);
      set(b, a, (info >> i) & 1);
    }
  }
  // The data goes up and down in columns of two, from the right, around the vertical timing.
  let at = 0;
  for (let right = size - 1, up = true; right > 0; right -= 2, up = !up) {
    if (right === 6) {
      right--;
    }
    for (let i = 0; i < size; i++) {
      const y = up ? size - 1 - i : i;
      for (const x of [right, right - 1]) {
        if (!fixed[y][x]) {
          const bit = at < 8 * stream.length ? (stream[at >> 3] >> (7 - (at & 7))) & 1 : 0;
          rows[y][x] = bit ^ ((x + y) % 2 === 0 ? 1 : 0);
          at++;
        }
      }
    }
  }
  return rows;
}
