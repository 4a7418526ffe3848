// run: verify
graph @f(%x: f32[N,4], %y: f32[M,K]) -> f32[N,4] {
  %z = add %x, %y : f32[N,4]
  return %z
}

// run: verify
graph @f(%x: f32[2]) -> f32[2] {
  %y = fused %x {kind="loop"} : f32[2] { (%p: f32[2]):  // error: no operator of level graph
    yield %p
  }
  return %y
}

// run: verify
graph @f(%x: f32[2]) -> f32[2] {level="fused"} {
  %y = neg %x : f32[2]  // error: no operator of level fused
  return %y
}

// run: verify
graph @f(%x: f32[2]) -> f32[2] {level="fused"} {
  %y = fused %x {kind="loop"} : f32[2] { (%p: f32[2]):
    %q = neg %x : f32[2]  // error: not defined before its use
    yield %q
  }
  return %y
}

// run: verify
graph @f(%x: f32[2]) -> f32[2] {level="fused"} {
  %y = fused %x {kind="loop"} : f32[2] { (%p: f32[3]):  // error: the arguments of the region
    yield %p
  }
  return %y
}

// run: verify
graph @f(%c: bool[], %x: f32[2], %z: f32[3]) -> f32[2] {
  %y = if %c : f32[2] {  // error: a region yields the result types
    yield %x
  } {
    yield %z
  }
  return %y
}

// run: verify
graph @f(%x: f32[2]) {
  %y = neg %x : f32[2]
  yield %y  // error: a function ends with `return`
}

// run: verify
graph @f() -> f32[40] {
  %c = const @big : f32[40]  // error: the module has no constant @big
  return %c
}
