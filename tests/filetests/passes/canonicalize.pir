// Views that merge, cancel or do nothing.
// run: opt canonicalize
graph @main(%x: f32[2,3,4,5]) -> f32[2,12,5] {
  %0 = transpose %x {perm=[0,2,3,1]} : f32[2,4,5,3]
  %1 = transpose %0 {perm=[0,3,1,2]} : f32[2,3,4,5]
  %2 = slice %1 {starts=[0,0,0,0], sizes=[2,3,4,5], steps=[1,1,1,1]} : f32[2,3,4,5]
  %3 = reshape %2 {shape=[6,4,5]} : f32[6,4,5]
  %4 = reshape %3 {shape=[2,12,5]} : f32[2,12,5]
  return %4
}

// ----

graph @main(%x: f32[2,3,4,5]) -> f32[2,12,5] {
  %0 = reshape %x {shape=[2,12,5]} : f32[2,12,5]
  return %0
}

// Arithmetic: constants on the right, powers, divisions that are exact.
// run: opt canonicalize
graph @main(%x: f32[N,4]) -> f32[N,4] {
  %two = const @two = [2.0] : f32[1]
  %c = const @c = [1.0, 3.0, 5.0, 7.0] : f32[4]
  %0 = add %c, %x : f32[N,4]
  %1 = pow %0, %two : f32[N,4]
  %2 = div %1, %two : f32[N,4]
  %3 = neg %2 : f32[N,4]
  %4 = neg %3 : f32[N,4]
  return %4
}

// ----

graph @main(%x: f32[N,4]) -> f32[N,4] {
  %c = const @c = [1.0, 3.0, 5.0, 7.0] : f32[4]
  %0 = add %x, %c : f32[N,4]
  %1 = mul %0, %0 : f32[N,4]
  %2 = const @two.1 = [0.5] : f32[1]
  %3 = mul %1, %2 : f32[N,4]
  return %3
}

// A scalar index is a slice; an index of a size that is not known, too, if it must be inside.
// run: opt canonicalize
graph @main(%x: f32[N,4]) -> (f32[4], f32[N]) {
  %last = const @last = -1 : i64[]
  %0 = gather %x, %last {axis=0} : f32[4]
  %1 = gather %x, %last {axis=1} : f32[N]
  return %0, %1
}

// ----

graph @main(%x: f32[N,4]) -> (f32[4], f32[N]) {
  %0 = slice %x {starts=[N - 1,0], sizes=[1,4], steps=[1,1]} : f32[1,4]
  %1 = reshape %0 {shape=[4]} : f32[4]
  %2 = slice %x {starts=[0,3], sizes=[N,1], steps=[1,1]} : f32[N,1]
  %3 = reshape %2 {shape=[N]} : f32[N]
  return %1, %3
}

// A branch that is known to be taken replaces the `if`.
// run: opt canonicalize
graph @main(%x: f32[3]) -> f32[3] {
  %yes = const @yes = true : bool[]
  %0 = if %yes : f32[3] {
    %1 = exp %x : f32[3]
    yield %1
  } {
    %2 = log %x : f32[3]
    yield %2
  }
  return %0
}

// ----

graph @main(%x: f32[3]) -> f32[3] {
  %0 = exp %x : f32[3]
  return %0
}
