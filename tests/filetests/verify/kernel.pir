// run: verify
kernel @copy(%x: buf f32[N,4], %y: buf f32[N,4]) {symbols=["N"], outputs=1} {
  k.for {hi=N, kind="parallel"} { (%i: index):
    k.for {hi=4, kind="parallel"} { (%j: index):
      %a = k.load %x, %i, %j {map=[#0,#1]} : f32
      k.store %a, %y, %i, %j {map=[#0,#1]}
      k.yield
    }
    k.yield
  }
  return
}

// run: verify
kernel @input(%x: buf f32[4], %y: buf f32[4]) {symbols=[], outputs=1} {
  k.for {hi=4, kind="parallel"} { (%i: index):
    %a = k.const {value=1.0, dtype=f32} : f32
    k.store %a, %x, %i {map=[#0]}  // error: a kernel writes its last `outputs` buffers
    k.yield
  }
  return
}

// run: verify
kernel @serial(%y: buf f32[4]) {symbols=[], outputs=1} {
  k.for {hi=4} { (%i: index):  // error: exactly one outermost loop, and it is parallel
    k.yield
  }
  return
}

// run: verify
kernel @nest(%y: buf f32[4]) {symbols=[], outputs=1} {
  k.for {hi=4, kind="parallel"} { (%i: index):
    %a = k.const {value=1.0, dtype=f32} : f32
    k.for {hi=4, kind="parallel"} { (%j: index):  // error: one perfect nest
      k.yield
    }
    k.yield
  }
  return
}

// run: verify
kernel @symbols(%x: buf f32[N], %y: buf f32[N]) {symbols=["N"], outputs=1} {
  k.for {hi=N, kind="parallel"} { (%i: index):
    %a = k.load %x, %i {map=[#0], guards=[[#0,M]]} : f32  // error: unknown symbols
    k.yield
  }
  return
}
