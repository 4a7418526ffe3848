// run: parse
graph @branch(%c: bool[], %x: f32[N]) -> f32[N] {
  %0 = if %c : f32[N] {
    %1 = neg %x : f32[N]
    yield %1
  } {
    yield %x
  }
  return %0
}

// run: parse
graph @count(%n: i64[]) -> (i64[], i64[]) {
  %zero = const @zero = 0 : i64[]
  %one = const @one = 1 : i64[]
  %0, %1 = while %zero, %zero : i64[], i64[] { (%i: i64[], %s: i64[]):
    %2 = lt %i, %n : bool[]
    yield %2
  } { (%3: i64[], %4: i64[]):
    %5 = add %3, %one : i64[]
    %6 = add %4, %5 : i64[]
    yield %5, %6
  }
  return %0, %1
}

// run: parse
graph @sums(%start: f32[3], %x: f32[N,3]) -> (f32[3], f32[N,3]) {
  %0, %1 = scan %start, %x {n_carry=1} : f32[3], f32[N,3] { (%carry: f32[3], %row: f32[3]):
    %2 = add %carry, %row : f32[3]
    yield %2, %2
  }
  return %0, %1
}
