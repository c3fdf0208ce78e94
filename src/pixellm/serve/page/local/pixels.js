// Image file → RGBA bytes, upright, with transparency on white, colour profiles not applied (`pixellm.imaging.images`).

export async function pixelsOf(blob) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(blob, options).catch(() => null);
  if (!bitmap) throw new Error("Expected an image that this browser can read, got another file. Choose another one.");
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true }); // in exact integers
  if (!context) throw new Error(`Expected an image that this browser can draw, got ${width}×${height} pixels. Scale it down.`);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, data: context.getImageData(0, 0, width, height).data };
}
