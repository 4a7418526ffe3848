// Two convolutions: one transposition at the start, one at the result.
// run: opt layout{nr=16},fold
graph @main(%x: f32[N,16,8], %w: f32[16,16,3]) -> f32[N,16,4] {
  %0 = nn.conv %x, %w {strides=[1], pads=[1,1], dilations=[1]} : f32[N,16,8]
  %1 = relu %0 : f32[N,16,8]
  %2 = nn.max_pool %1 {kernel=[2], strides=[2], pads=[0,0], dilations=[1]} : f32[N,16,4]
  %3 = nn.conv %2, %w {strides=[1], pads=[1,1], dilations=[1]} : f32[N,16,4]
  return %3
}

// ----

graph @main(%x: f32[N,16,8], %w: f32[16,16,3]) -> f32[N,16,4] {
  %0 = transpose %x {perm=[0,2,1]} : f32[N,8,16]
  %1 = nn.pack_weights %w {nr=16} : f32[1,1,48,16]
  %2 = nn.conv_packed %0, %1 {kernel=[3], strides=[1], pads=[1,1], dilations=[1], out_channels=16} : f32[N,8,16]
  %3 = relu %2 : f32[N,8,16]
  %4 = nn.max_pool %3 {kernel=[2], strides=[2], pads=[0,0], dilations=[1], channels_last=true} : f32[N,4,16]
  %5 = nn.conv_packed %4, %1 {kernel=[3], strides=[1], pads=[1,1], dilations=[1], out_channels=16} : f32[N,4,16]
  %6 = transpose %5 {perm=[0,2,1]} : f32[N,16,4]
  return %6
}

// A matrix product of activations packs its right operand.
// run: opt layout{nr=8}
graph @main(%x: f32[N,4,8], %y: f32[N,8,10]) -> f32[N,4,10] {
  %0 = matmul %x, %y : f32[N,4,10]
  return %0
}

// ----

graph @main(%x: f32[N,4,8], %y: f32[N,8,10]) -> f32[N,4,10] {
  %0 = pack %y {nr=8} : f32[N,2,8,8]
  %1 = matmul_packed %x, %0 {cols=10} : f32[N,4,10]
  return %1
}
