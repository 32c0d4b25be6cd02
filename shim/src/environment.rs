//! The environment of the programs that this one starts: the library goes along, also where the program cleans up.
//!
//! A program that passes an environment without LD_PRELOAD, as servers do that start others with a few variables only, gets it
//! added, with the settings in TCPRELOAD_*. One that says LD_PRELOAD itself is obeyed: a list of other libraries gets ours in
//! front, and the empty value turns it off (`LD_PRELOAD= PROGRAM`).

use crate::companion::{FAMILY, FamilyName};
use core::ffi::{CStr, c_char};
use std::ffi::CString;

const PRELOAD: &[u8] = b"LD_PRELOAD=";
const SETTINGS: &[u8] = b"TCPRELOAD_";

/// An environment with additions. The strings that are not new are the program's.
pub struct Kept {
    list: Vec<*const c_char>,
    _own: Vec<CString>,
}

impl Kept {
    pub fn as_ptr(&self) -> *const *const c_char {
        self.list.as_ptr()
    }
}

/// Set for `tcpreload --relay` where the program that it becomes was to be started with `LD_PRELOAD=`.
pub const OFF: &str = "TCPRELOAD_RELAY_OFF";

/// Whether it says that nothing is to be preloaded.
///
/// # Safety
/// As [`kept`].
pub unsafe fn is_switched_off(envp: *const *const c_char) -> bool {
    // SAFETY: as the caller vouches for.
    unsafe { strings(envp) }.iter().any(|s| s.to_bytes() == PRELOAD)
}

/// What `tcpreload --relay` is started with in the place of a program that was to get `envp`: as [`kept`], and preloaded in any case.
///
/// # Safety
/// As [`kept`].
pub unsafe fn for_relay(envp: *const *const c_char, family: &str) -> Option<Kept> {
    // SAFETY: as the caller vouches for.
    let (given, off) = unsafe { (strings(envp), is_switched_off(envp)) };
    if !off {
        // SAFETY: the same.
        return unsafe { kept(envp, Some(family)) };
    }
    let own = [
        [PRELOAD, own_path()?.to_bytes()].concat(),
        format!("{OFF}=1").into(),
        format!("{FAMILY}={family}").into(),
    ];
    let own: Vec<CString> = own.into_iter().filter_map(|s| CString::new(s).ok()).collect();
    let goes = |s: &CStr| s.to_bytes() == PRELOAD || s.to_bytes().starts_with(FAMILY.as_bytes());
    let mut list: Vec<*const c_char> = given.iter().filter(|s| !goes(s)).map(|s| s.as_ptr()).collect();
    list.extend(own.iter().map(|s| s.as_ptr()));
    list.push(core::ptr::null());
    Some(Kept { list, _own: own })
}

/// What to pass on in the place of `envp`; `None`: as it is. `family`: what the new program finds as TCPRELOAD_FAMILY; what this
/// one found there is not passed on.
///
/// # Safety
/// `envp` is null or an environment: an array of strings with a null at its end.
pub unsafe fn kept(envp: *const *const c_char, family: Option<&str>) -> Option<Kept> {
    // SAFETY: as the caller vouches for.
    let given: Vec<&CStr> = unsafe { strings(envp) };
    let library = own_path()?;
    let mine: Vec<(CString, CString)> = std::env::vars_os()
        .filter(|(name, _)| name.as_encoded_bytes().starts_with(SETTINGS) && name != FAMILY)
        .filter_map(|(n, v)| {
            Some((CString::new(n.into_encoded_bytes()).ok()?, CString::new(v.into_encoded_bytes()).ok()?))
        })
        .collect();
    let mut own = additions(&given, library, &mine).unwrap_or_default();
    let stale =
        |s: &CStr| s.to_bytes().strip_prefix(FAMILY.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
    if own.is_empty() && family.is_none() && !given.iter().any(|s| stale(s)) {
        return None;
    }
    let replaced = own.first().is_some_and(|first| first.0);
    own.extend(family.and_then(|name| Some((false, CString::new(format!("{FAMILY}={name}")).ok()?))));
    let goes = |s: &CStr| stale(s) || (replaced && s.to_bytes().starts_with(PRELOAD));
    let old = given.iter().filter(|s| !goes(s)).map(|s| s.as_ptr());
    let mut list: Vec<*const c_char> = old.collect();
    list.extend(own.iter().map(|(_, s)| s.as_ptr()));
    list.push(core::ptr::null());
    Some(Kept { list, _own: own.into_iter().map(|(_, s)| s).collect() })
}

/// The strings to add; the first is LD_PRELOAD, with whether it replaces one. `None`: nothing is missing.
fn additions(
    given: &[&CStr],
    library: &CStr,
    settings: &[(CString, CString)],
) -> Option<Vec<(bool, CString)>> {
    let said = given.iter().find_map(|s| s.to_bytes().strip_prefix(PRELOAD));
    let preload = match said {
        Some(b"") => return None,
        Some(list) if contains(list, library.to_bytes()) => return None,
        Some(list) => [PRELOAD, library.to_bytes(), b":", list].concat(),
        None => [PRELOAD, library.to_bytes()].concat(),
    };
    let mut own = vec![(said.is_some(), CString::new(preload).ok()?)];
    for (name, value) in settings {
        let start = [name.to_bytes(), b"="].concat();
        if !given.iter().any(|s| s.to_bytes().starts_with(&start)) {
            own.push((false, CString::new([&start, value.to_bytes()].concat()).ok()?));
        }
    }
    Some(own)
}

/// Whether a list of libraries has this one, under whatever path.
fn contains(list: &[u8], library: &[u8]) -> bool {
    let name = |path: &[u8]| path.rsplit(|&b| b == b'/').next().map(<[u8]>::to_vec);
    list.split(|b| matches!(b, b':' | b' ')).any(|item| name(item) == name(library))
}

/// # Safety
/// As [`kept`].
pub unsafe fn strings<'a>(envp: *const *const c_char) -> Vec<&'a CStr> {
    let mut all = Vec::new();
    if envp.is_null() {
        return all;
    }
    for n in 0.. {
        // SAFETY: before the null.
        let at = unsafe { envp.add(n).read() };
        if at.is_null() {
            break;
        }
        // SAFETY: a string, as the caller vouches for.
        all.push(unsafe { CStr::from_ptr(at) });
    }
    all
}

/// What this program found as TCPRELOAD_FAMILY.
pub fn family() -> Option<FamilyName> {
    // Nothing is allocated before it is found: the first call of a program may be its allocator's own.
    // SAFETY: the program's environment, which libc keeps: null, or strings up to a null.
    let mut at = unsafe { environ };
    while !at.is_null() {
        // SAFETY: up to the null, which comes last.
        let string = unsafe { at.read() };
        if string.is_null() {
            break;
        }
        // SAFETY: a string, as above.
        let text = unsafe { CStr::from_ptr(string) }.to_bytes();
        if let Some(value) = text.strip_prefix(FAMILY.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) {
            return FamilyName::parse(core::str::from_utf8(value).ok()?);
        }
        at = at.wrapping_add(1);
    }
    None
}

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Where this library was loaded from, if another program can find it there.
pub fn own_path() -> Option<&'static CStr> {
    // SAFETY: all zero is a value of it.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: an address of this library, and a place for the answer.
    let found = unsafe { libc::dladdr(own_path as *const libc::c_void, &mut info) } != 0;
    if !found || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's string, which stays.
    let path = unsafe { CStr::from_ptr(info.dli_fname) };
    path.to_bytes().starts_with(b"/").then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(given: &[&CStr]) -> Option<Vec<(bool, String)>> {
        let settings = [(c"TCPRELOAD_STRICT".to_owned(), c"1".to_owned())];
        let own = additions(given, c"/lib/libtcpreload.so", &settings)?;
        Some(own.into_iter().map(|(replaces, s)| (replaces, s.into_string().unwrap())).collect())
    }

    #[test]
    fn a_cleaned_environment_gets_the_library_back() {
        let preload = (false, "LD_PRELOAD=/lib/libtcpreload.so".to_string());
        let strict = (false, "TCPRELOAD_STRICT=1".to_string());
        assert_eq!(added(&[]), Some(vec![preload.clone(), strict]));
        assert_eq!(added(&[c"A=b", c"TCPRELOAD_STRICT=0"]), Some(vec![preload]));
    }

    #[test]
    fn a_program_that_names_libraries_is_obeyed() {
        assert_eq!(added(&[c"LD_PRELOAD="]), None);
        assert_eq!(added(&[c"LD_PRELOAD=/elsewhere/libtcpreload.so:x.so"]), None);
        let own = added(&[c"LD_PRELOAD=x.so", c"TCPRELOAD_STRICT=0"]);
        assert_eq!(own, Some(vec![(true, "LD_PRELOAD=/lib/libtcpreload.so:x.so".to_string())]));
    }
}
