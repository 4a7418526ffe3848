// run: parse
graph @main(%x: f32[N,64]) -> f32[N,64] {level="fused"} {
  %0 = fused %x {kind="row", schedule=[["lanes",16]]} : f32[N,64] { (%1: f32[N,64]):
    %2 = softmax %1 {axis=1} : f32[N,64]
    yield %2
  }
  return %0
}

// run: parse
program @main(%x: f32[N,64]) -> f32[N,64] {
  %0 = launch %x {kernel="scale", sizes=[N]} : f32[N,64]
  return %0
}

kernel @scale(%x: buf f32[N,64], %y: buf f32[N,64]) {symbols=["N"], outputs=1} {
  %0 = k.scratch {dtype=f32, shape=[16]} : buf f32[16]
  k.for {hi=((N + 3)//4), kind="parallel"} { (%1: index):
    k.for %1 {lo=4*#0, hi=min(4*#0 + 4, N), n_index=1} { (%2: index):
      %3 = k.const {value=0.0, dtype=f32} : f32
      %4 = k.for %3 {hi=64, kind="vector", unroll=4, combine=["add"]} : f32 { (%5: index, %6: f32):
        %7 = k.load %x, %2, %5 {map=[#0,#1 - 1], guards=[[#1 - 1,64]]} : f32
        %8 = k.add %6, %7 : f32
        k.yield %8
      }
      k.store %4, %y, %2 {map=[#0,0]}
      k.yield
    }
    k.yield
  }
  return
}

// ----

program @main(%x: f32[N,64]) -> f32[N,64] {
  %0 = launch %x {kernel="scale", sizes=[N]} : f32[N,64]
  return %0
}

kernel @scale(%x: buf f32[N,64], %y: buf f32[N,64]) {symbols=["N"], outputs=1} {
  %0 = k.scratch {dtype=f32, shape=[16]} : buf f32[16]
  k.for {hi=(N + 3)//4, kind="parallel"} { (%1: index):
    k.for %1 {lo=4*#0, hi=min(4*#0 + 4, N), n_index=1} { (%2: index):
      %3 = k.const {value=0.0, dtype=f32} : f32
      %4 = k.for %3 {hi=64, kind="vector", unroll=4, combine=["add"]} : f32 { (%5: index, %6: f32):
        %7 = k.load %x, %2, %5 {map=[#0,#1 - 1], guards=[[#1 - 1,64]]} : f32
        %8 = k.add %6, %7 : f32
        k.yield %8
      }
      k.store %4, %y, %2 {map=[#0,0]}
      k.yield
    }
    k.yield
  }
  return
}
