// run: parse
graph @net(%x: f32[N,3,8,8], %scale: f32[]) -> (f32[N,4,4,4], i64[N,2]) {
  %w = const @conv1.weight : f32[4,3,3,3]
  %half = const @half = 0.5 : f32[]
  %shift = const @shift = [1.0, -0.0, inf, 1e-30] : f32[4]
  %0 = nn.conv %x, %w {strides=[2,2], pads=[1,1,1,1], dilations=[1,1]} : f32[N,4,4,4]
  %1 = mul %0, %scale : f32[N,4,4,4]
  %2 = add %1, %shift : f32[N,4,4,4]
  %3 = slice %2 {starts=[0,0,0,0], sizes=[N,4,1,1], steps=[1,1,1,1]} : f32[N,4,1,1]
  %4 = reshape %3 {shape=[N,4]} : f32[N,4]
  %5, %6 = topk %4 {k=2, axis=1} : f32[N,2], i64[N,2]
  return %2, %6
}

// Spaces and line breaks are free; numbers and default attributes come out in one form.
// run: parse
graph @f ( %a : f32[ N//2, (N + 1)//2 ],
           %b: f32[2*3] )
  -> (f32[N//2,(N+1)//2], bool[6])
{
  %9 = neg %a : f32[N//2,(1+N)//2]     // a comment
  %7 = isinf %b {detect_negative = true,
                 detect_positive = false} : bool[6]
  return %9, %7
}

// ----

graph @f(%a: f32[N//2,(N + 1)//2], %b: f32[6]) -> (f32[N//2,(N + 1)//2], bool[6]) {
  %0 = neg %a : f32[N//2,(N + 1)//2]
  %1 = isinf %b {detect_positive=false} : bool[6]
  return %0, %1
}

// Dimensions that only the data decides.
// run: parse
graph @f(%x: bool[N]) -> i64[nz0] {may_be_zero=["nz0"]} {
  %0 = nonzero %x : i64[1,nz0]
  %1 = reshape %0 {shape=[nz0]} : i64[nz0]
  return %1
}
