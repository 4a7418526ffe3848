// A factor of the result of a convolution goes into its weight, past the bias.
// run: opt affine
graph @main(%x: f32[N,1,3]) -> f32[N,2,3] {
  %w = const @w = [1.0, 2.0] : f32[2,1,1]
  %b = const @b = [1.0, 3.0] : f32[2,1]
  %s = const @s = [10.0, 100.0] : f32[2,1]
  %0 = nn.conv %x, %w {strides=[1], pads=[0,0], dilations=[1]} : f32[N,2,3]
  %1 = add %0, %b : f32[N,2,3]
  %2 = mul %1, %s : f32[N,2,3]
  %3 = add %2, %b : f32[N,2,3]
  return %3
}

// ----

graph @main(%x: f32[N,1,3]) -> f32[N,2,3] {
  %0 = const @w.1 = [10.0, 200.0] : f32[2,1,1]
  %1 = nn.conv %x, %0 {strides=[1], pads=[0,0], dilations=[1]} : f32[N,2,3]
  %2 = const @b.1.1 = [11.0, 303.0] : f32[2,1]
  %3 = add %1, %2 : f32[N,2,3]
  return %3
}
