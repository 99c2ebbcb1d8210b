//! What programs see of a filesystem through this frontend.

mod cases;
#[allow(dead_code)]
mod support;

macro_rules! tests {
    ($($group:ident: $($case:ident)*;)*) => {
        $(mod $group {
            $(#[test]
            fn $case() {
                crate::cases::$group::$case(crate::support::Mounted::open_to_all().path());
            })*
        })*
    };
}

for_each_case!(tests);
