// run: parse
graph @f(%x: f32[2]) -> f32[2] {
  %y = nag %x : f32[2]  // error: no operator is called 'nag'
  return %y
}

// run: parse
graph @f(%x: f32[2]) -> f32[2] {
  %y = transpose %x {perm=[0]} : f32[2]
  return %z  // error: %z is not defined here
}

// run: parse
graph @f(%x: f32[2], %y: f32[3]) -> f32[2] {
  %z = add %x, %y : f32[2]  // error: broadcast
  return %z
}

// run: parse
graph @f(%x: f32[2]) -> f32[2] {
  %y = neg %x : f32[2,1]  // error: expected: f32[2]
  return %y
}

// run: parse
graph @f(%c: bool[], %x: f32[2]) -> f32[2] {
  %y = if %c : f32[2] {
    %z = neg %x : f32[2]
    yield %z
  } {
    yield %z  // error: %z is not defined here
  }
  return %y
}
