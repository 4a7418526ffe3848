// Sizes and constants are computed now.
// run: opt fold
graph @main(%x: f32[2,3]) -> (f32[3,2], i64[2]) {
  %sizes = sizes {dims=[3,2]} : i64[2]
  %a = const @a = [1, 2] : i64[2]
  %0 = add %sizes, %a : i64[2]
  %1 = transpose %x {perm=[1,0]} : f32[3,2]
  return %1, %0
}

// ----

graph @main(%x: f32[2,3]) -> (f32[3,2], i64[2]) {
  %0 = const @sizes.1 = [4, 4] : i64[2]
  %1 = transpose %x {perm=[1,0]} : f32[3,2]
  return %1, %0
}

// Equal operations, and constants of equal content, are merged; 0.0 and -0.0 differ.
// run: opt cse
graph @main(%x: f32[2]) -> (f32[2], f32[2], f32[2]) {
  %a = const @a = [0.0, 1.0] : f32[2]
  %b = const @b = [0.0, 1.0] : f32[2]
  %c = const @c = [-0.0, 1.0] : f32[2]
  %0 = add %x, %a : f32[2]
  %1 = add %x, %b : f32[2]
  %2 = add %x, %c : f32[2]
  return %0, %1, %2
}

// ----

graph @main(%x: f32[2]) -> (f32[2], f32[2], f32[2]) {
  %a = const @a = [0.0, 1.0] : f32[2]
  %c = const @c = [-0.0, 1.0] : f32[2]
  %0 = add %x, %a : f32[2]
  %1 = add %x, %c : f32[2]
  return %0, %0, %1
}

// What nobody uses goes, in regions too.
// run: opt dce
graph @main(%x: f32[2], %c: bool[]) -> f32[2] {
  %0 = exp %x : f32[2]
  %1 = if %c : f32[2] {
    %2 = sin %x : f32[2]
    %3 = neg %x : f32[2]
    yield %3
  } {
    yield %x
  }
  return %1
}

// ----

graph @main(%x: f32[2], %c: bool[]) -> f32[2] {
  %0 = if %c : f32[2] {
    %1 = neg %x : f32[2]
    yield %1
  } {
    yield %x
  }
  return %0
}

// Operators without a kernel are expanded.
// run: opt decompose
graph @main(%x: f32[N,3]) -> f32[N,3] {
  %0 = softmax %x {axis=1} : f32[N,3]
  return %0
}

// ----

graph @main(%x: f32[N,3]) -> f32[N,3] {
  %0 = reduce.max %x {axes=[1], keepdims=true} : f32[N,1]
  %1 = sub %x, %0 : f32[N,3]
  %2 = exp %1 : f32[N,3]
  %3 = reduce.sum %2 {axes=[1], keepdims=true} : f32[N,1]
  %4 = const @one = 1.0 : f32[]
  %5 = div %4, %3 : f32[N,1]
  %6 = mul %2, %5 : f32[N,3]
  return %6
}
